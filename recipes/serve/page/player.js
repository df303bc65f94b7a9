// Plays a video block by block while it is made: fragments of the mp4 through Media Source
// Extensions or, where these are missing, pictures on a canvas.

const WANTED_SECONDS = 6; // as much is fetched ahead of what is shown
const KEPT_SECONDS = 60; // as much stays behind it, to go back to
const WAIT = 30; // seconds that one request waits for a block

/** Media Source Extensions: the same bytes as in the file. */
class Fragments {
  static can(codec) {
    return "MediaSource" in window && MediaSource.isTypeSupported(Fragments.type(codec));
  }
  static type(codec) {
    return `video/mp4; codecs="${codec}"`;
  }
  constructor(video) {
    this.element = video;
    this.address = (name, block) => `v1/sessions/${name}/blocks/${block}?wait=${WAIT}`;
  }
  async open(name, codec) {
    this.source = new MediaSource();
    const opened = new Promise((done) => this.source.addEventListener("sourceopen", done, { once: true }));
    this.url = URL.createObjectURL(this.source);
    this.element.src = this.url;
    await opened;
    this.buffer = this.source.addSourceBuffer(Fragments.type(codec));
    const header = await fetch(`v1/sessions/${name}/header`);
    await this.#append(await header.arrayBuffer());
  }
  facts(answer) {
    const value = (key) => Number(answer.headers.get(key));
    return { first: value("x-first-frame"), frames: value("x-frames"), madeAt: value("x-made-at") };
  }
  async add(answer) {
    await this.#append(await answer.arrayBuffer());
    const behind = this.element.currentTime - KEPT_SECONDS;
    const { buffered } = this.buffer;
    if (buffered.length && behind - buffered.start(0) > KEPT_SECONDS) {
      this.buffer.remove(0, behind);
      await this.#done();
    }
  }
  has(time) {
    const { buffered } = this.element;
    for (let i = 0; i < buffered.length; i += 1)
      if (buffered.start(i) - 0.02 <= time && time < buffered.end(i) - 0.02) return true;
    return false;
  }
  ahead() {
    const { buffered, currentTime } = this.element;
    for (let i = 0; i < buffered.length; i += 1)
      if (buffered.start(i) - 0.1 <= currentTime && currentTime <= buffered.end(i) + 0.1)
        return Math.max(0, buffered.end(i) - currentTime);
    return 0;
  }
  end() {
    if (this.source.readyState === "open" && !this.buffer.updating) this.source.endOfStream();
  }
  close() {
    this.element.pause();
    this.element.removeAttribute("src");
    this.element.load();
    URL.revokeObjectURL(this.url);
  }
  async #append(bytes) {
    this.buffer.appendBuffer(bytes);
    await this.#done();
  }
  #done() {
    return new Promise((done, failed) => {
      this.buffer.addEventListener("updateend", done, { once: true });
      this.buffer.addEventListener("error", () => failed(new Error("the video cannot be played")), { once: true });
    });
  }
}

/** Pictures on a canvas, with the few properties of a video element that are used here. */
class Pictures {
  constructor(canvas, fps) {
    this.element = this;
    this.canvas = canvas;
    this.fps = fps;
    this.frames = new Map();
    this.place = 0;
    this.paused = true;
    this.address = (name, block) => `v1/sessions/${name}/blocks/${block}/frames?format=jpeg&wait=${WAIT}`;
  }
  async open() {
    this.timer = setInterval(() => this.#tick(), 1000 / this.fps);
  }
  async facts(answer) {
    this.read = await answer.json();
    return { first: this.read.first, frames: this.read.frames.length, madeAt: 0 };
  }
  async add() {
    const { first, frames } = this.read;
    const made = await Promise.all(
      frames.map(async (text) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        return createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
      }),
    );
    made.forEach((picture, i) => this.frames.set(first + i, picture));
    for (const number of this.frames.keys())
      if (number < this.place - KEPT_SECONDS * this.fps) this.frames.delete(number);
    this.#draw();
  }
  get currentTime() {
    return this.place / this.fps;
  }
  set currentTime(seconds) {
    this.place = Math.floor(seconds * this.fps + 0.01);
    this.#draw();
  }
  has(time) {
    return this.frames.has(Math.floor(time * this.fps + 0.01));
  }
  ahead() {
    let count = 0;
    while (this.frames.has(this.place + count)) count += 1;
    return count / this.fps;
  }
  async play() {
    this.paused = false;
  }
  pause() {
    this.paused = true;
  }
  end() {}
  close() {
    clearInterval(this.timer);
    this.frames.clear();
  }
  #tick() {
    if (this.paused || !this.frames.has(this.place + 1)) return;
    this.place += 1;
    this.#draw();
  }
  #draw() {
    const picture = this.frames.get(this.place);
    if (!picture) return;
    if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) {
      this.canvas.width = picture.width;
      this.canvas.height = picture.height;
    }
    this.canvas.getContext("2d").drawImage(picture, 0, 0);
    if (this.onframe) this.onframe(this.place / this.fps);
  }
}

/**
 * Follows one session. `tell` is an object of functions: shown(block, madeAt), taken(block),
 * waiting(block), ended(message), failed(message).
 */
export class Player {
  constructor(video, canvas, fps, tell, { pictures = false } = {}) {
    Object.assign(this, { video, canvas, fps, tell, pictures });
    this.blocks = new Map(); // number -> {start, end, madeAt}
    this.shown = -1;
    this.next = 0;
    this.jump = null;
    this.alive = true;
    this.wanted = true; // whether it plays, as far as the person is concerned
  }

  get element() {
    return this.sink ? this.sink.element : this.video;
  }
  get ahead() {
    return this.sink ? this.sink.ahead() : 0;
  }

  /** Play a session from a block on. */
  async open(name, first) {
    this.name = name;
    this.next = first;
    this.jump = first;
    try {
      await this.#follow();
    } catch (error) {
      if (this.alive && error.name !== "AbortError") this.tell.failed(error.message);
    }
  }

  close() {
    this.alive = false;
    this.stopped?.abort();
    this.sink?.close();
    cancelAnimationFrame(this.watch);
  }

  play() {
    this.wanted = true;
    return this.element.play().catch(() => {}); // the browser may want a click first
  }
  pause() {
    this.wanted = false;
    this.element.pause();
  }

  /** Show a block as soon as it is there: what is buffered before it is skipped. */
  show(block) {
    const known = this.blocks.get(block);
    if (known && this.sink.has(known.start + 0.01)) {
      this.jump = null;
      this.#seek(known.start);
      return;
    }
    this.jump = block;
    if (block < this.next || block > this.next + 8) {
      this.next = block;
      this.stopped?.abort();
    }
  }

  async #follow() {
    while (this.alive) {
      if (this.jump === null && this.ahead > WANTED_SECONDS) {
        await new Promise((done) => setTimeout(done, 100));
        continue;
      }
      const block = this.next;
      const answer = await this.#fetch(block);
      if (!this.alive || answer === null) continue;
      if (answer.status === 204) continue;
      if (!answer.ok) {
        const { error } = await answer.json();
        if (answer.status !== 404) throw new Error(error.message);
        this.sink?.end();
        this.tell.ended(error.message);
        return;
      }
      await this.#take(block, answer);
    }
  }

  /** The answer to the request of a block; null if it was given up for another one. */
  async #fetch(block) {
    if (this.ahead < 0.2) this.tell.waiting(block);
    this.stopped = new AbortController();
    const { signal } = this.stopped;
    try {
      if (!this.sink) await this.#begin(block, signal);
      return await fetch(this.sink.address(this.name, block), { signal });
    } catch (error) {
      if (error.name === "AbortError") return null;
      this.tell.waiting(block);
      await new Promise((done) => setTimeout(done, 1000)); // the server may be starting again
      return null;
    }
  }

  async #begin(block, signal) {
    const first = await fetch(`v1/sessions/${this.name}/blocks/${block}?wait=${WAIT}`, { signal });
    const session = await (await fetch(`v1/sessions/${this.name}`, { signal })).json();
    if (!first.ok || first.status === 204) {
      if (session.error) throw new Error(session.error.message ?? session.error);
    }
    if (!session.codec) return;
    const fragments = !this.pictures && Fragments.can(session.codec);
    const sink = fragments ? new Fragments(this.video) : new Pictures(this.canvas, this.fps);
    this.video.hidden = !fragments;
    this.canvas.hidden = fragments;
    await sink.open(this.name, session.codec);
    this.sink = sink;
    this.#watch();
  }

  async #take(block, answer) {
    const { first, frames, madeAt } = await this.sink.facts(answer);
    const start = first / this.fps;
    this.blocks.set(block, { start, end: (first + frames) / this.fps, madeAt });
    await this.sink.add(answer);
    if (this.next === block) this.next = block + 1;
    this.tell.taken(block);
    if (this.jump === block) {
      this.jump = null;
      this.#seek(start);
    }
    if (this.wanted && this.element.paused) this.play();
  }

  #seek(seconds) {
    this.element.currentTime = seconds + 0.5 / this.fps / 2;
    if (this.wanted) this.play();
  }

  /** Tell which block is on the screen, by the frames that are composed. */
  #watch() {
    const seen = (time) => {
      for (const [block, { start, end, madeAt }] of this.blocks)
        if (start - 0.001 <= time && time < end - 0.001 && block !== this.shown) {
          this.shown = block;
          this.tell.shown(block, madeAt);
        }
    };
    if (this.sink instanceof Pictures) {
      this.sink.onframe = seen;
    } else if ("requestVideoFrameCallback" in this.video) {
      const composed = (now, { mediaTime }) => {
        if (!this.alive) return;
        seen(mediaTime);
        this.video.requestVideoFrameCallback(composed);
      };
      this.video.requestVideoFrameCallback(composed);
    } else {
      const look = () => {
        if (!this.alive) return;
        seen(this.video.currentTime);
        this.watch = requestAnimationFrame(look);
      };
      look();
    }
  }
}
