// The page: a session that is watched and steered, its timeline, and the list of all videos.
// What people and the server say is only ever set as text.

import { Player } from "./player.js";

const $ = (name) => document.getElementById(name);
const page = { server: null, session: null, player: null, chosen: null, asked: null, image: null, record: null };
const pictures = new URLSearchParams(location.search).has("pictures");
const MEMORY = {
  keep: "the past stays as it is",
  recache: "the past is encoded again under the new prompt",
  cut: "a new shot begins",
  forget: "a new shot that remembers nothing",
};
const STATES = {
  running: "being made",
  paused: "made as it is watched",
  stopped: "stopped; can be resumed",
  ended: "complete",
  failed: "failed",
  queued: "queued",
};
const MOST_BLOCKS = 600;

/* requests */

async function api(path, { method = "GET", body, raw } = {}) {
  const init = { method };
  if (raw) init.body = raw;
  else if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "content-type": "application/json" };
  }
  let answer;
  try {
    answer = await fetch(`v1/${path}`, init);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.status === 401 && path !== "token") {
    await askForToken();
    return api(path, { method, body, raw });
  }
  if (answer.status === 204) return null;
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error.message);
  return value;
}

let asking = null;
function askForToken() {
  asking ??= new Promise((done) => {
    const dialog = $("ask");
    dialog.showModal();
    dialog.oncancel = (event) => event.preventDefault();
    $("ask-form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await api("token", { method: "POST", body: { token: $("ask-form").token.value } });
        dialog.close();
        asking = null;
        done();
      } catch (error) {
        $("ask-error").textContent = error.message;
      }
    };
  });
  return asking;
}

/* words */

function say(text, bad = false) {
  $("say").textContent = text;
  $("say").classList.toggle("bad", bad);
}
function overlay(text) {
  $("overlay").hidden = !text;
  $("overlay").textContent = text;
}
const clock = (seconds) => `${seconds.toFixed(1)} s`;
const startOf = (block) => {
  const { frames_of_first_block: first, frames_of_block: more, fps } = page.server;
  return block ? (first + (block - 1) * more) / fps : 0;
};
const size = (bytes) => {
  if (bytes > 1e9) return `${(bytes / 1e9).toFixed(1)} GB`;
  return bytes > 1e6 ? `${Math.round(bytes / 1e6)} MB` : `${Math.round(bytes / 1e3)} kB`;
};

/** All changes of the prompt, planned and steered: [{block, text, kind}], as they take effect. */
function changes(session) {
  const steered = new Set(session.events.map((event) => event.block));
  const planned = session.shots.filter((shot) => !steered.has(shot.block));
  return [
    ...planned.map((shot) => ({ block: shot.block, text: shot.text, kind: "shot" })),
    ...session.events.map((event) => ({ ...event, kind: event.forget ? "forget" : event.memory })),
  ].sort((a, b) => a.block - b.block);
}
function promptAt(session, block) {
  return changes(session).filter((change) => change.block <= block).at(-1)?.text ?? session.prompt;
}

/* one session */

async function watch(session, { from = null, jump = null } = {}) {
  leave();
  page.session = session;
  page.chosen = null;
  history.replaceState(null, "", `#s=${session.id}`);
  $("welcome").hidden = true;
  for (const name of ["transport", "time", "facts", "memory"]) $(name).hidden = false;
  $("timeline").replaceChildren();
  $("stage").dataset.shown = "-1";
  const tell = {
    shown: (block, madeAt) => shown(block, madeAt),
    waiting: (block) => overlay(page.session.state === "running" || block >= page.session.blocks ? `Making block ${block} …` : ""),
    taken: (block) => {
      if (block >= page.session.blocks) refresh();
    },
    ended: () => refresh(),
    failed: (message) => {
      overlay("");
      say(message, true);
    },
  };
  render();
  if (session.state === "failed" || (session.blocks === 0 && session.state !== "running" && session.state !== "paused")) return;
  const player = new Player($("video"), $("canvas"), page.server.fps, tell, { pictures });
  page.player = player;
  const first = from ?? Math.max(0, session.blocks - 1);
  if (session.state === "stopped" && session.blocks === 0) return;
  player.open(session.id, first);
  if (jump !== null) player.show(jump);
}

function leave() {
  page.player?.close();
  page.player = null;
  page.asked = null;
  overlay("");
}

function shown(block, madeAt) {
  overlay("");
  const stage = $("stage");
  stage.dataset.shown = block;
  stage.dataset.shownAt = Date.now();
  stage.dataset.madeAt = madeAt;
  if (page.asked && block >= page.asked.block) {
    const seconds = (performance.now() - page.asked.at) / 1000;
    $("latency").textContent = `${seconds.toFixed(2)} s`;
    Object.assign($("latency").dataset, { block: page.asked.block, shown: block, shownAt: Date.now(), madeAt });
    page.asked = null;
  }
  for (const one of $("timeline").querySelectorAll(".now")) one.classList.remove("now");
  const here = $(`block-${block}`);
  here?.classList.add("now");
  here?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

async function refresh() {
  if (!page.session) return;
  const { id } = page.session;
  try {
    const session = await api(`sessions/${id}`);
    if (page.session?.id !== id) return;
    page.session = session;
    render();
  } catch (error) {
    $("state").textContent = error.message;
  }
}

function render() {
  const { session, player } = page;
  const over = ["ended", "failed"].includes(session.state);
  const stopped = session.state === "stopped";
  $("state").textContent = STATES[session.state];
  $("send").textContent = over || stopped ? "Start" : "Show";
  $("prompt-label").textContent = over || stopped ? "What a new video shows" : "What it shows next";
  $("prompt").placeholder = promptAt(session, session.blocks);
  $("stop").hidden = over;
  $("stop").textContent = stopped ? "Resume" : "Stop";
  $("get-video").hidden = session.blocks === 0;
  $("get-video").href = `v1/sessions/${session.id}/video.mp4`;
  $("get-record").hidden = !session.has_record;
  $("get-record").href = `v1/sessions/${session.id}/record`;
  $("fps").textContent = session.fps_made ? `${session.fps_made.toFixed(1)} of ${page.server.fps} fps` : "–";
  $("memory-used").textContent = session.memory ? size(session.memory) : "–";
  $("length").textContent = `${clock(session.frames / page.server.fps)}, ${size(session.bytes)}`;
  $("seed").textContent = session.seed;
  $("buffer").textContent = player ? clock(player.ahead) : "–";
  if (session.error) say(session.error, true);
  if (stopped) overlay("The server was stopped while it made this video. Resume goes on with it.");
  const lines = session.backends.length ? session.backends : Object.values(page.server.backends)[0];
  if ($("backends").dataset.text !== lines.join("\n")) {
    $("backends").dataset.text = lines.join("\n");
    $("backends").replaceChildren(...lines.map((line) => element("li", line)));
  }
  timeline();
}

function element(kind, text = "", more = {}) {
  const made = document.createElement(kind);
  made.textContent = text;
  return Object.assign(made, more);
}

/* the timeline */

function timeline() {
  const { session } = page;
  const line = $("timeline");
  const events = new Map(changes(session).map((change) => [change.block, change]));
  const saved = new Set(session.snapshots);
  const first = Math.max(0, session.blocks - MOST_BLOCKS);
  while (line.firstChild && Number(line.firstChild.dataset.block) < first) line.firstChild.remove();
  const have = line.lastChild ? Number(line.lastChild.dataset.block) + 1 : first;
  for (let block = have; block < session.blocks; block += 1) {
    const one = element("div", String(block), { id: `block-${block}`, className: "block" });
    one.dataset.block = block;
    one.setAttribute("role", "option");
    one.setAttribute("aria-selected", "false");
    line.append(one);
  }
  while (line.lastChild && Number(line.lastChild.dataset.block) >= session.blocks) line.lastChild.remove();
  let part = changes(session).filter((change) => change.block < first).length - 1;
  for (const one of line.children) {
    const block = Number(one.dataset.block);
    const change = events.get(block);
    if (change) part += 1;
    one.className = `block shot-${Math.max(0, part) % 4}`;
    one.classList.toggle("event", Boolean(change) && block > 0);
    one.classList.toggle("saved", saved.has(block));
    one.classList.toggle("now", $("stage").dataset.shown === String(block));
    const said = change && block > 0 ? `${change.kind}: ${change.text}` : promptAt(session, block);
    one.title = `block ${block}, ${clock(startOf(block))}: ${said}`;
    one.setAttribute("aria-label", one.title);
  }
}

function choose(block, seek = true) {
  const { session } = page;
  if (!session || session.blocks === 0) return;
  block = Math.min(Math.max(0, block), session.blocks - 1);
  page.chosen = block;
  for (const one of $("timeline").children) one.setAttribute("aria-selected", String(Number(one.dataset.block) === block));
  $("timeline").setAttribute("aria-activedescendant", `block-${block}`);
  $(`block-${block}`)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  $("chosen").textContent = `Block ${block}, ${clock(startOf(block))}: ${promptAt(session, block)}`;
  $("fork").disabled = false;
  $("fork").textContent = `Fork at ${clock(startOf(block))}`;
  if (seek) page.player?.show(block);
}

async function fork() {
  if (page.chosen === null) return;
  const text = $("prompt").value.trim();
  const block = page.chosen;
  try {
    say(`Forking at ${clock(startOf(block))} …`);
    const said = text ? command(text) : {};
    const made = await api(`sessions/${page.session.id}/fork`, { method: "POST", body: { block, ...said } });
    $("prompt").value = "";
    say(`A second ending, from ${clock(startOf(block))} on${text ? `: ${said.text}` : ""}`);
    const here = Math.max(0, Math.min(block, made.blocks - 1));
    if (text) page.asked = { at: performance.now(), block };
    const asked = page.asked;
    await watch(made, { from: here, jump: block });
    page.asked = asked;
    $("prompt").focus();
  } catch (error) {
    say(error.message, true);
  }
}

/* steering */

function command(line) {
  const match = /^\/(recache|cut|forget)\s+(.*)$/s.exec(line);
  if (match) return { memory: match[1], text: match[2] };
  return { memory: document.querySelector("input[name=memory]:checked").value, text: line };
}

async function send(event) {
  event.preventDefault();
  const line = $("prompt").value.trim();
  if (!line) return;
  const at = performance.now();
  const live = page.session && ["running", "paused"].includes(page.session.state);
  try {
    if (!live) {
      await begin({ prompt: line });
      $("prompt").value = "";
      return;
    }
    const said = await api(`sessions/${page.session.id}/prompt`, { method: "POST", body: command(line) });
    const { block, text } = said.event;
    page.asked = { at, block };
    $("latency").textContent = "…";
    page.player?.show(block);
    $("prompt").value = "";
    const kind = said.event.forget ? "forget" : said.event.memory;
    say([`From ${clock(startOf(block))} on, ${MEMORY[kind]}: ${text}`, ...said.lines].join(" – "));
    refresh();
  } catch (error) {
    say(error.message, true);
  }
}

async function begin(fields) {
  say("");
  const session = await api("sessions", { method: "POST", body: fields });
  await watch(session, { from: 0 });
  tellNotes(session);
}

/** What is to be said of a new video, unless something went wrong meanwhile. */
function tellNotes(session) {
  if (page.session?.id === session.id && !page.session.error) say(session.notes.join(" – "));
}

/* a new video */

function openNew(file = null) {
  const form = $("new-form");
  const typed = $("prompt").value.trim();
  if (typed) form.prompt.value = typed;
  form.weights.replaceChildren(...page.server.weights.map((name) => element("option", name, { value: name })));
  form.steps.max = page.server.limits.steps;
  form.steps.placeholder = [page.server.steps].flat().join(", ");
  form.guidance.placeholder = page.server.guidance;
  form.seconds.max = page.server.limits.seconds;
  form.weights.disabled = page.server.weights.length < 2;
  $("new-error").textContent = "";
  if (!$("new").open) $("new").showModal();
  if (file) takeFile(file);
}

async function takeFile(file) {
  $("new-error").textContent = "";
  const most = page.server.limits.upload_mb;
  try {
    if (file.size > most * 2 ** 20) throw new Error(`${file.name} is too large: ${most} MiB are the most.`);
    if (file.type === "application/json" || file.name.endsWith(".json")) {
      const record = JSON.parse(await file.text());
      if (!record?.replay) throw new Error(`${file.name} is no record of a video.`);
      page.record = record;
    } else {
      page.image = (await api("images", { method: "POST", raw: file })).id;
      $("preview").src = URL.createObjectURL(file);
      $("preview").hidden = false;
    }
    const what = [page.record && "a record to replay", page.image && "a picture to start with"].filter(Boolean);
    $("dropped").textContent = `${file.name}: ${what.join(", and ")}.`;
    $("clear-file").hidden = false;
    fields();
  } catch (error) {
    $("new-error").textContent = error instanceof SyntaxError ? `${file.name} is no JSON.` : error.message;
  }
}

function clearFile() {
  page.image = page.record = null;
  URL.revokeObjectURL($("preview").src);
  $("preview").removeAttribute("src");
  $("preview").hidden = true;
  $("dropped").textContent = "No picture.";
  $("clear-file").hidden = true;
  fields();
}

function fields() {
  for (const one of $("new-form").querySelectorAll("label input, label select")) {
    if (one.type !== "file") one.disabled = Boolean(page.record);
  }
  $("begin").textContent = page.record ? "Replay" : "Start";
}

async function beginNew(event) {
  event.preventDefault();
  const form = $("new-form");
  const number = (name) => (form[name].value === "" ? undefined : Number(form[name].value));
  const body = { prompt: form.prompt.value, weights: form.weights.value || undefined };
  for (const name of ["seed", "seconds", "steps", "guidance", "crf"]) body[name] = number(name);
  if (page.image) body.image = page.image;
  try {
    if (page.record) {
      const replayed = { record: page.record, ...(page.image ? { image: page.image } : {}) };
      const session = await api("sessions/replay", { method: "POST", body: replayed });
      await watch(session, { from: 0 });
      tellNotes(session);
    } else await begin(body);
    clearFile();
    $("prompt").value = "";
    $("new").close();
    $("prompt").focus();
  } catch (error) {
    $("new-error").textContent = error.message;
  }
}

/* the list */

async function openList() {
  if (!$("list").open) $("list").showModal();
  let sessions = [];
  try {
    sessions = (await api("sessions")).data;
  } catch (error) {
    say(error.message, true);
  }
  $("none").hidden = sessions.length > 0;
  $("sessions").replaceChildren(...sessions.map(listed));
}

function listed(session) {
  const row = element("li");
  const about = element("p", "", { className: "about" });
  about.append(element("strong", session.prompt), element("br"));
  const from = session.parent === null ? "" : `, forked at ${clock(startOf(session.parent_block))}`;
  about.append(element("span", `${STATES[session.state]}, ${clock(session.frames / page.server.fps)}, seed ${session.seed}${from}`, { className: "quiet" }));
  const act = (text, action) => {
    const button = element("button", text, { type: "button" });
    button.setAttribute("aria-label", `${text}: ${session.prompt}`);
    button.onclick = async () => {
      try {
        await action();
      } catch (error) {
        say(error.message, true);
        $("list").close();
      }
    };
    return button;
  };
  row.append(about);
  if (session.state === "stopped")
    row.append(act("Resume", async () => {
      await resume(session.id);
      $("list").close();
    }));
  else
    row.append(act("Watch", async () => {
      await watch(session, { from: session.state === "ended" ? 0 : null });
      $("list").close();
    }));
  row.append(act("Delete", async () => {
    await api(`sessions/${session.id}`, { method: "DELETE" });
    if (page.session?.id === session.id) home();
    await openList();
  }));
  return row;
}

async function resume(name) {
  await watch(await api(`sessions/${name}/resume`, { method: "POST" }));
}

function home() {
  leave();
  page.session = null;
  history.replaceState(null, "", location.pathname + location.search);
  $("welcome").hidden = false;
  for (const name of ["transport", "time", "facts", "memory", "canvas"]) $(name).hidden = true;
  $("video").hidden = false;
  $("state").textContent = "";
  $("send").textContent = "Start";
  $("prompt-label").textContent = "What the video shows";
}

/* playback and keys */

function toggle() {
  const { player } = page;
  if (!player) return;
  if (player.wanted) player.pause();
  else player.play();
  $("play").textContent = player.wanted ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", String(!player.wanted));
}
function toLive() {
  if (page.session?.blocks) page.player?.show(page.session.blocks - 1);
}
async function stop() {
  const { session } = page;
  try {
    if (session.state === "stopped") await resume(session.id);
    else {
      page.session = await api(`sessions/${session.id}/close`, { method: "POST" });
      render();
    }
  } catch (error) {
    say(error.message, true);
  }
}

function keys(event) {
  if (event.altKey && !event.ctrlKey && !event.metaKey && "1234".includes(event.key) && event.key) {
    document.querySelectorAll("input[name=memory]")[Number(event.key) - 1].click();
    event.preventDefault();
    return;
  }
  const { target } = event;
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches("input[type=text], input:not([type]), select, textarea")) {
    if (event.key === "Escape") $("stage").querySelector(":not([hidden])").focus();
    return;
  }
  const step = (by) => choose((page.chosen ?? Number($("stage").dataset.shown)) + by);
  const bound = {
    "/": () => $("prompt").focus(),
    " ": target.matches("button, a, summary, [role=button]") ? null : toggle,
    ArrowLeft: target.matches("input") ? null : () => step(-1),
    ArrowRight: target.matches("input") ? null : () => step(1),
    l: toLive, f: fork, n: () => openNew(), v: openList, d: () => $("get-video").click(), "?": () => $("help").showModal(),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!bound) return;
  event.preventDefault();
  bound();
}

function wire() {
  $("steer").onsubmit = send;
  $("play").onclick = toggle;
  $("live").onclick = toLive;
  $("stop").onclick = stop;
  $("fork").onclick = fork;
  $("open-new").onclick = () => openNew();
  $("open-list").onclick = openList;
  $("open-help").onclick = () => $("help").showModal();
  $("new-form").onsubmit = beginNew;
  $("clear-file").onclick = clearFile;
  for (const button of document.querySelectorAll("[data-close]")) button.onclick = () => button.closest("dialog").close();
  $("drop").onclick = (event) => event.target !== $("file") && $("file").click();
  $("drop").onkeydown = (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    $("file").click();
  };
  $("file").onchange = () => {
    if ($("file").files[0]) takeFile($("file").files[0]);
    $("file").value = "";
  };
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file && page.server) openNew(file);
  });
  $("timeline").onclick = (event) => {
    const one = event.target.closest(".block");
    if (one) choose(Number(one.dataset.block));
  };
  const hint = () => {
    $("memory-hint").textContent = MEMORY[document.querySelector("input[name=memory]:checked").value];
  };
  $("memory").onchange = hint;
  hint();
  document.addEventListener("keydown", keys);
  setInterval(() => {
    const { player, session } = page;
    if (!player || !session) return;
    $("clock").textContent = `${clock(player.element.currentTime)} of ${clock(session.frames / page.server.fps)}`;
    $("buffer").textContent = clock(player.ahead);
    $("live").setAttribute("aria-pressed", String(player.shown >= session.blocks - 1));
  }, 250);
  setInterval(() => {
    if (page.session && !document.hidden && !["ended", "failed"].includes(page.session.state)) refresh();
  }, 1000);
}

async function start() {
  wire();
  page.server = await api("server");
  const { model, width, height, fps, device } = page.server;
  $("model").textContent = `${model}, ${width} × ${height} at ${fps} fps on ${device}`;
  const name = /^#s=([0-9a-f]{16})$/.exec(location.hash)?.[1];
  if (name) {
    try {
      await watch(await api(`sessions/${name}`));
      return;
    } catch (error) {
      home();
      say(error.message, true);
    }
  }
  const left = (await api("sessions")).data.filter((session) => session.state === "stopped");
  if (left.length) say(`${left.length === 1 ? "A video was" : `${left.length} videos were`} being made when the server stopped: see Videos (V) to resume.`);
}

start().catch((error) => say(error.message, true));
