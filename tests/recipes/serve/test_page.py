"""The page in a browser: it plays, steers, forks, survives a reload, and works by keys alone."""

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from longlive_models.video.files import read_video
from longlive_recipes.serve.offers import Offers
from tests.recipes.serve.browsers import Browser, Tab, open_browser
from tests.recipes.serve.servers import Client, server, until

PROMPT, OTHER = "a red circle", "a blue square"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; the tests are skipped, with the reason, where there is none."""
    with open_browser() as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, client: Client) -> Iterator[Tab]:
    """The page of the shared server."""
    with browser.tab(str(client.base_url)) as tab:
        yield tab


def start(tab: Tab, prompt: str = PROMPT) -> str:
    """Type a prompt and Enter; returns the id of the session that plays then."""
    tab.type("#prompt", prompt)
    tab.press("Enter")
    tab.until("Number(document.querySelector('#stage').dataset.shown) >= 1")
    return str(tab.run("location.hash")).removeprefix("#s=")


def test_a_prompt_becomes_a_video_that_plays(tab):
    start(tab)
    assert not tab.run("document.querySelector('#video').hidden")
    first, pixels = tab.run("document.querySelector('#video').currentTime"), tab.pixels()
    tab.until(f"document.querySelector('#video').currentTime > {first} + 0.5")
    assert tab.pixels() != pixels
    assert tab.text("#fps").endswith("of 8 fps") and tab.text("#memory-used")[-2:] in ("MB", "GB")
    assert tab.text("#backends li").startswith("attention: ")
    assert tab.errors == []


@pytest.mark.parametrize("mode", ["fragments", "pictures"])
def test_a_new_prompt_is_on_the_screen_as_soon_as_its_block_is_made(browser, client, mode):
    address = f"{client.base_url}{'?pictures' if mode == 'pictures' else ''}"
    with browser.tab(address) as tab:
        name = start(tab)
        tab.type("#prompt", OTHER)
        tab.press("Alt+3")
        tab.press("Enter")
        tab.until("document.querySelector('#latency').dataset.block")
        facts = tab.run("({...document.querySelector('#latency').dataset})")
        [event] = client.session(name)["events"]
        assert (event["text"], event["memory"]) == (OTHER, "cut")
        assert facts["shown"] == facts["block"] == str(event["block"])
        if mode == "fragments":
            late = float(facts["shownAt"]) / 1000 - float(facts["madeAt"])
            assert 0 <= late < 1.0, f"on the screen {late:.2f} s after it was made"
        tab.press("Escape")
        tab.press("Space")  # stands still, at the first frame of that block
        tab.click(f"#block-{event['block']}")
        tab.until(f"document.querySelector('#stage').dataset.shown === '{event['block']}'")
        time.sleep(0.3)
        got = client.get(f"/v1/sessions/{name}/blocks/{event['block']}/frames").json()["frames"][0]
        wanted = Image.open(io.BytesIO(base64.b64decode(got))).convert("RGB")
        shown = Image.open(io.BytesIO(tab.pixels())).convert("RGB")
        assert far(shown.resize(wanted.size), wanted) < 12
        assert tab.errors == []


def far(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures' bytes."""
    pairs = zip(one.tobytes(), other.tobytes(), strict=True)
    return sum(abs(a - b) for a, b in pairs) / len(one.tobytes())


def test_a_click_on_the_timeline_forks(tab, client):
    name = start(tab)
    tab.until("document.querySelectorAll('#timeline .block').length >= 4")
    tab.click("#block-3")
    assert tab.text("#chosen").startswith("Block 3, 2.6 s")
    tab.type("#prompt", "/forget a blue square")
    tab.click("#fork")
    tab.until(f"location.hash !== '#s={name}'")
    fork = client.session(str(tab.run("location.hash")).removeprefix("#s="))
    assert (fork["parent"], fork["parent_block"]) == (name, 3)
    assert fork["events"] == [{"block": 3, "text": OTHER, "memory": "cut", "forget": True}]
    tab.until("Number(document.querySelector('#stage').dataset.shown) >= 3")
    tab.until("document.querySelector('#block-3')?.classList.contains('event')")
    assert tab.errors == []


def test_a_reload_goes_on_watching(tab, client):
    name = start(tab)
    before = client.session(name)["blocks"]
    tab.reload()
    tab.until(f"Number(document.querySelector('#stage').dataset.shown) >= {before}")
    assert client.session(name)["state"] in ("running", "paused")
    assert len(client.get("/v1/sessions").json()["data"]) == 1


def test_a_download_plays_and_its_record_is_replayed(tab, client, tmp_path):
    name = start(tab)
    tab.click("#stop")
    until(lambda: client.session(name)["state"] == "ended")
    tab.until("!document.querySelector('#get-record').hidden")
    frames, fps = read_video(tab.download("#get-video", tmp_path / "a.mp4"))
    assert len(frames) == client.session(name)["frames"] and fps == 8
    record = tab.download("#get-record", tmp_path / "a.json")
    assert json.loads(record.read_text())["replay"]["shots"][0]["prompt"] == PROMPT
    tab.press("Escape")
    tab.press("n")
    tab.choose_file("#file", record)
    tab.until("document.querySelector('#begin').textContent === 'Replay'")
    tab.click("#begin")
    tab.until(f"location.hash !== '#s={name}'")
    again = str(tab.run("location.hash")).removeprefix("#s=")
    until(lambda: client.session(again)["state"] == "ended")
    video = "/v1/sessions/{}/video.mp4"
    assert client.get(video.format(again)).content == client.get(video.format(name)).content


def test_a_picture_is_dropped_and_settings_are_sent(tab, client, tmp_path):
    Image.new("RGB", (40, 40), (0, 200, 0)).save(tmp_path / "green.png")
    tab.press("Escape")
    tab.press("n")
    tab.type("#new-form [name=prompt]", PROMPT)
    for field, value in {"seed": "7", "seconds": "2", "steps": "3", "crf": "30"}.items():
        tab.type(f"#new-form [name={field}]", value)
    tab.choose_file("#file", tmp_path / "green.png")
    tab.until("!document.querySelector('#preview').hidden")
    tab.click("#begin")
    tab.until("location.hash")
    name = str(tab.run("location.hash")).removeprefix("#s=")
    until(lambda: client.session(name)["state"] == "ended")
    config = client.get(f"/v1/sessions/{name}/record").json()["replay"]
    assert (config["seed"], config["image"]) == (7, "image.png")
    assert (config["config"]["steps"], config["config"]["crf"]) == (3, 30)
    tab.choose_file("#file", Path(__file__))
    tab.until("document.querySelector('#new-error').textContent.includes('jpeg, png or webp')")


def test_keys_alone_are_enough(tab, client):
    tab.press("Escape")
    tab.press("/")
    name = start(tab)
    tab.press("Escape")
    tab.press("Space")
    assert tab.text("#play") == "Play" and tab.run("document.querySelector('#video').paused")
    tab.press("Space")
    tab.press("ArrowLeft")
    tab.press("f")
    tab.until(f"location.hash !== '#s={name}'")
    tab.press("Escape")
    tab.press("v")
    tab.until("document.querySelectorAll('#sessions li').length === 2")
    tab.press("Escape")
    tab.press("?")
    assert tab.run("document.querySelector('#help').open")
    tab.press("Escape")
    assert not tab.run("document.querySelector('#help').open")


def test_prompts_are_text(tab, client):
    nasty = "<img src=x onerror=alert(1)><b>a red circle</b>"
    name = start(tab, nasty)
    tab.until("document.querySelector('#say').textContent.startsWith('the model does not know')")
    tab.type("#prompt", f"{nasty} &amp; </script>")
    tab.press("Enter")
    tab.until("document.querySelector('#say').textContent.includes('</script>')")
    assert client.session(name)["events"][0]["text"].endswith("</script>")
    tab.press("Escape")
    tab.press("v")
    tab.until("document.querySelector('#sessions strong')")
    assert tab.text("#sessions strong") == nasty
    assert tab.run("document.querySelectorAll('main b, #list b, img[src=x]').length") == 0
    assert tab.errors == []


def test_every_control_has_a_name_and_nothing_is_cut_off_on_a_phone(browser, client):
    with browser.tab(str(client.base_url), width=360, dark=True) as tab:
        start(tab)
        for dialog in ("", "new", "list", "help"):
            if dialog:
                tab.run(f"document.querySelector('#{dialog}').showModal()")
            assert tab.run("document.documentElement.scrollWidth") <= 360
            assert tab.run(NAMELESS) == []
            if dialog:
                assert tab.run(f"document.querySelector('#{dialog}').scrollTop") == 0
                tab.run(f"document.querySelector('#{dialog}').close()")


def test_the_ring_around_what_is_focused_leaves_its_label_free(browser, client):
    for width, dark in ((1200, False), (360, True)):
        with browser.tab(str(client.base_url), width=width, dark=dark) as tab:
            tab.press("Escape")
            tab.press("n")
            ring = tab.run(RING)
            assert ring[0] > 0 and ring[1] >= 2
            gaps = tab.run(GAPS)
            assert len(gaps) == 7 and min(gaps.values()) >= sum(ring), gaps


RING = """['outlineOffset', 'outlineWidth'].map(
    (name) => parseFloat(getComputedStyle(document.activeElement)[name]))"""
GAPS = """Object.fromEntries([...document.querySelectorAll('#new label')].map((label) => {
    const text = document.createRange();
    text.selectNodeContents(label.firstChild);
    const field = label.querySelector('input, select').getBoundingClientRect();
    return [label.textContent.trim(), field.top - text.getBoundingClientRect().bottom];
}))"""
NAMELESS = """[...document.querySelectorAll('button, input, select, a, video, canvas, [role]')]
    .filter((one) => one.checkVisibility())
    .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length
        || one.getAttribute('aria-labelledby') || ['status', 'alert'].includes(one.role)))
    .map((one) => one.outerHTML)"""


def test_a_token_is_asked_for(browser, tmp_path, offers):
    with (
        server(tmp_path / "served", offers=offers, token="a-secret-token") as client,
        browser.tab(str(client.base_url)) as tab,
    ):
        tab.until("document.querySelector('#ask').open")
        tab.type("#ask [name=token]", "wrong")
        tab.press("Enter")
        tab.until("document.querySelector('#ask-error').textContent.includes('not the server')")
        tab.type("#ask [name=token]", "a-secret-token")
        tab.press("Enter")
        tab.until(
            "!document.querySelector('#ask').open && document.querySelector('#model').textContent"
        )
        name = start(tab)
        frames, _ = read_video(tab.download("#get-video", tmp_path / "a.mp4"))
        assert len(frames) and client.session(name)["blocks"]


def test_what_a_server_has_left_is_resumed(browser, tmp_path, offers: Offers):
    folder = tmp_path / "served"
    with server(folder, offers=offers) as client:
        name = client.begin(PROMPT)["id"]
        client.block(name, 2)
    with server(folder, offers=offers) as client, browser.tab(str(client.base_url)) as tab:
        tab.until("document.querySelector('#say').textContent.includes('see Videos')")
        assert client.session(name)["state"] == "stopped"
        tab.press("Escape")
        tab.press("v")
        tab.until("document.querySelector('#sessions button')")
        tab.click("#sessions button")
        tab.until("Number(document.querySelector('#stage').dataset.shown) >= 4")
