// Load Audio on the canvas: upload button, player, and a waveform on which start and duration are dragged.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const NODE = "Audio2ImgLoadAudio";
const HEIGHT = 72; // pixels of the waveform
const PEAKS = 800; // columns that a file is reduced to
const HANDLE = 6; // pixels around an edge of the selection in which it is caught
const SHORTEST = 0.05; // seconds; a shorter drag is a click
const ACCEPT = "audio/*,video/*,.flac,.opus,.mkv,.m4a";

/** Where a value of the file widget ("deep/a.flac", "b.wav [output]", "c.flac [example]") is served. */
function viewURL(value) {
  const example = /^(.*?)\s*\[example\]$/.exec(value);
  if (example) return api.fileURL(`/audio2img/examples/${encodeURIComponent(example[1])}`);
  const annotated = /^(.*?)\s*\[(input|output|temp)\]$/.exec(value);
  const path = annotated ? annotated[1] : value;
  const slash = path.lastIndexOf("/");
  const query = new URLSearchParams({
    filename: path.slice(slash + 1),
    subfolder: slash < 0 ? "" : path.slice(0, slash),
    type: annotated ? annotated[2] : "input",
    changed: String(Date.now()),
  });
  return api.apiURL(`/view?${query}`);
}

/** The loudest sample of each of PEAKS parts, over all channels; {peaks, seconds}. */
async function readPeaks(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error("no such file");
  const context = new OfflineAudioContext(1, 1, 44100);
  const sound = await context.decodeAudioData(await answer.arrayBuffer());
  const peaks = new Float32Array(PEAKS);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    const samples = sound.getChannelData(channel);
    for (let i = 0; i < samples.length; i++) {
      const column = Math.min(Math.floor((i / samples.length) * PEAKS), PEAKS - 1);
      peaks[column] = Math.max(peaks[column], Math.abs(samples[i]));
    }
  }
  return { peaks, seconds: sound.duration };
}

/** Uploads a file into the input folder; its value for the file widget. */
async function upload(file) {
  const body = new FormData();
  body.append("image", file); // the one upload route takes files of all kinds under this name
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) throw new Error(`${file.name} was not uploaded: ${answer.status} ${answer.statusText}`);
  const saved = await answer.json();
  return saved.subfolder ? `${saved.subfolder}/${saved.name}` : saved.name;
}

class SoundEditor {
  constructor(node) {
    this.node = node;
    const widget = (name) => node.widgets.find((each) => each.name === name);
    [this.file, this.start, this.duration] = ["audio_file", "start", "duration"].map(widget);
    this.sound = null;
    this.message = "";
    this.dragged = null;

    this.element = document.createElement("div");
    this.element.className = "audio2img-sound";
    this.element.style.cssText = "display:flex;flex-direction:column;gap:4px;width:100%";
    this.canvas = document.createElement("canvas");
    this.canvas.style.cssText = `width:100%;height:${HEIGHT}px;border-radius:4px;cursor:crosshair;touch-action:none`;
    this.canvas.title = "Drag to choose a part, its edges to change it; double-click for the whole sound";
    this.player = document.createElement("audio");
    this.player.controls = true;
    this.player.style.cssText = "width:100%;height:32px";
    this.element.append(this.canvas, this.player);

    for (const each of [this.file, this.start, this.duration]) this.follow(each);
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerup", (event) => this.release(event));
    this.canvas.addEventListener("dblclick", () => this.select(0, 0));
    this.player.addEventListener("play", () => this.playPart());
    this.player.addEventListener("timeupdate", () => this.stopAtEnd());
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** Redraws, or loads another sound, whenever a widget's value changes. */
  follow(widget) {
    const before = widget.callback;
    widget.callback = (...given) => {
      const result = before?.apply(widget, given);
      if (widget === this.file) this.load();
      else this.draw();
      return result;
    };
  }

  async load() {
    const value = this.file.value;
    this.sound = null;
    this.message = value ? "loading" : "no sound in the input folder: upload one";
    this.draw();
    if (!value) return;
    const url = viewURL(value);
    this.player.src = url;
    try {
      const sound = await readPeaks(url);
      if (value !== this.file.value) return; // another one was chosen meanwhile
      this.sound = sound;
      this.message = "";
    } catch (error) {
      if (value !== this.file.value) return;
      // What the browser cannot decode FFmpeg may still read: the node works without a preview.
      this.message = error instanceof DOMException ? "no preview of this format" : error.message;
    }
    this.draw();
  }

  /** Chosen part in seconds; a duration of 0 goes to the end. */
  part() {
    const seconds = this.sound?.seconds ?? 0;
    const from = Math.min(this.start.value, seconds);
    const to = this.duration.value > 0 ? Math.min(from + this.duration.value, seconds) : seconds;
    return [from, to];
  }

  select(from, duration) {
    this.start.value = Math.round(from * 100) / 100;
    this.duration.value = Math.round(duration * 100) / 100;
    this.start.callback?.(this.start.value);
    this.duration.callback?.(this.duration.value);
    this.node.setDirtyCanvas(true, true);
  }

  /** Seconds under the pointer. The canvas is scaled with the graph, so its own width in pixels does not count. */
  secondsAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    return Math.min(Math.max(share, 0), 1) * this.sound.seconds;
  }

  press(event) {
    if (!this.sound || event.button !== 0) return;
    event.stopPropagation();
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.secondsAt(event);
    const reach = (HANDLE / this.canvas.getBoundingClientRect().width) * this.sound.seconds;
    const [from, to] = this.part();
    const chosen = this.duration.value > 0 || this.start.value > 0;
    // The other edge stays where it is while one is dragged; elsewhere a new part begins.
    if (chosen && Math.abs(at - from) <= reach) this.dragged = to;
    else if (chosen && Math.abs(at - to) <= reach) this.dragged = from;
    else this.dragged = at;
  }

  move(event) {
    if (this.dragged === null) return;
    event.stopPropagation();
    const at = this.secondsAt(event);
    const [from, to] = [Math.min(at, this.dragged), Math.max(at, this.dragged)];
    if (to - from >= SHORTEST) this.select(from, to >= this.sound.seconds ? 0 : to - from);
  }

  release(event) {
    if (this.dragged === null) return;
    event.stopPropagation();
    this.dragged = null;
  }

  playPart() {
    const [from, to] = this.part();
    if (this.player.currentTime < from || this.player.currentTime >= to) this.player.currentTime = from;
  }

  stopAtEnd() {
    if (!this.sound) return;
    const [, to] = this.part();
    if (to < this.sound.seconds && this.player.currentTime >= to && !this.player.paused) this.player.pause();
  }

  draw() {
    const width = Math.max(this.canvas.clientWidth, 1);
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = HEIGHT * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = "#17181d";
    pen.fillRect(0, 0, width, HEIGHT);
    pen.font = "11px sans-serif";
    if (!this.sound) {
      pen.fillStyle = "#9a9ca8";
      pen.textAlign = "center";
      pen.fillText(this.message, width / 2, HEIGHT / 2 + 4);
      return;
    }
    const { peaks, seconds } = this.sound;
    const [from, to] = this.part().map((each) => (each / seconds) * width);
    pen.fillStyle = "#24414d";
    pen.fillRect(from, 0, to - from, HEIGHT);
    for (let x = 0; x < width; x++) {
      const first = Math.floor((x / width) * PEAKS);
      const last = Math.max(Math.ceil(((x + 1) / width) * PEAKS), first + 1);
      const peak = Math.min(Math.max(...peaks.subarray(first, last)), 1);
      const half = Math.max(peak * (HEIGHT / 2 - 10), 0.5);
      pen.fillStyle = x >= from && x <= to ? "#5ec8c3" : "#565966";
      pen.fillRect(x, HEIGHT / 2 - 6 - half, 1, 2 * half);
    }
    pen.fillStyle = "#e8e8ee";
    for (const edge of [from, to]) pen.fillRect(Math.min(edge, width - 1.5), 0, 1.5, HEIGHT);
    const [begin, end] = this.part();
    pen.textAlign = "left";
    pen.fillText(`${begin.toFixed(2)} s`, 4, HEIGHT - 4);
    pen.textAlign = "right";
    pen.fillText(`${end.toFixed(2)} of ${seconds.toFixed(2)} s`, width - 4, HEIGHT - 4);
  }
}

/** Uploads the first of these files and chooses it. */
async function take(files, editor) {
  const file = files[0];
  if (!file) return;
  try {
    const value = await upload(file);
    const values = editor.file.options.values;
    if (!values.includes(value)) values.push(value);
    editor.file.value = value;
    editor.select(0, 0);
    editor.file.callback?.(value);
  } catch (error) {
    app.extensionManager?.toast?.add({ severity: "error", summary: "Load Audio", detail: error.message });
  }
}

app.registerExtension({
  name: "audio2img.LoadAudio",

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const editor = new SoundEditor(node);
    const picker = document.createElement("input");
    picker.type = "file";
    picker.accept = ACCEPT;
    picker.addEventListener("change", () => {
      take(picker.files, editor);
      picker.value = "";
    });
    const options = { serialize: false }; // of what is posted; the attribute below is of what is saved
    const button = node.addWidget("button", "choose sound or video to upload", null, () => picker.click(), options);
    button.serialize = false;
    node.addDOMWidget("sound", "audio2img_sound", editor.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => HEIGHT + 40,
    });
    node.onDragOver = (event) => Boolean(event.dataTransfer?.types?.includes("Files"));
    node.onDragDrop = (event) => {
      const files = [...(event.dataTransfer?.files ?? [])].filter((file) => /^(audio|video)\//.test(file.type));
      if (files.length) take(files, editor);
      return files.length > 0;
    };
    node.audio2imgSound = editor;
    editor.load();
  },

  // A workflow's values are there only after its nodes were made.
  loadedGraphNode(node) {
    node.audio2imgSound?.load();
  },
});
