// The page: one state, one function for each thing that a visitor does.
import { WORDS, fill } from "./words.js";

const $ = id => document.getElementById(id);
const LIVE_PAUSE_MS = 150;
const PAGE = 100;
const state = { key: sessionStorage.apiKey || "", model: null, count: 0, last: "", live: false };

// ---- words

const word = (key, values) => fill(WORDS[$("language").value][key] ?? key, values);
const say = text => { $("message").textContent = text; };

function translate() {
  document.documentElement.lang = $("language").value;
  localStorage.language = $("language").value;
  for (const node of document.querySelectorAll("[data-text]"))
    node.textContent = word(node.dataset.text);
  showRate();
  if (state.model) loadGallery();
}

// ---- the service

class Problem extends Error {
  constructor(code, detail) { super(WORDS.en[code] ? word(code) : detail); this.code = code; }
}

async function call(path, options = {}) {
  const headers = state.key ? { Authorization: `Bearer ${state.key}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem("offline", "");
  }
  if (answer.status === 401) throw new Problem("wrongKey", "");
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const { code, detail } = await answer.json();
  throw new Problem(code, detail);
}

function form(values) {
  const body = new FormData();
  for (const [key, value] of values) body.append(key, value);
  return { method: "POST", body };
}

/** Run what a visitor asked for; what goes wrong becomes a message. */
const attempt = work => async event => {
  event?.preventDefault();
  try { await work(event); } catch (error) { say(error.message); }
};

// ---- the door

async function enter() {
  state.model = await call("v1/model");
  sessionStorage.apiKey = state.key;
  $("door").hidden = true;
  $("inside").hidden = false;
  $("kept").dataset.text = state.model.keeps_photos ? "kept" : "notKept";
  $("kept").textContent = word($("kept").dataset.text);
  const slider = $("threshold");
  slider.max = state.model.rates.length - 1;
  // to the right is stricter
  slider.value = state.model.rates.length - 1 -
    state.model.rates.findIndex(rate => rate.fmr === state.model.default_fmr);
  say("");
  await loadGallery();
}

const chosenRate = () => state.model.rates[state.model.rates.length - 1 - $("threshold").value];

function showRate() {
  if (!state.model) return;
  const { fmr, label } = chosenRate();
  const fpir = `${(100 * (1 - (1 - fmr) ** state.count)).toPrecision(2)} %`;
  $("rate").textContent = word("rate", { label, count: state.count, fpir });
  $("threshold").setAttribute("aria-valuetext", label);
}

// ---- the gallery

async function loadGallery() {
  $("gallery").replaceChildren();
  state.last = "";
  await loadMore();
}

async function loadMore() {
  const after = encodeURIComponent(state.last);
  const { count, identities } = await call(`v1/identities?limit=${PAGE}&after=${after}`);
  $("gallery").append(...identities.map(entry));
  state.count = count;
  state.last = identities.at(-1)?.name ?? state.last;
  $("more").hidden = identities.length < PAGE;
  $("count").textContent = count ? `(${count})` : "";
  if (!count) $("gallery").append(Object.assign(document.createElement("li"),
    { textContent: word("empty") }));
  showRate();
}

function entry({ name, templates }) {
  const row = document.createElement("li");
  const label = document.createElement("span");
  label.textContent = name;
  const number = document.createElement("small");
  number.textContent = word("templates", { count: templates });
  const button = document.createElement("button");
  button.textContent = word("delete");
  button.setAttribute("aria-label", word("deleteName", { name }));
  button.addEventListener("click", attempt(() => remove(name)));
  row.append(label, number, button);
  return row;
}

async function remove(name) {
  if (!await confirmed(word("question", { name }))) return;
  await call(`v1/identities/${encodeURIComponent(name)}`, { method: "DELETE" });
  await loadGallery();
  say(word("deleted", { name }));
  $("gallery-title").focus();
}

function confirmed(question) {
  const dialog = $("confirm");
  $("question").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise(resolve => dialog.addEventListener(
    "close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

// ---- enrolment

async function enroll(photos) {
  const name = $("name").value.trim();
  if (!name) throw new Problem("noName", "");
  if (!photos.length) throw new Problem("noPhotos", "");
  const values = [["name", name], ...photos.map(photo => ["photos", photo])];
  const { templates } = await call("v1/enroll", form(values));
  $("enroll-form").reset();
  await loadGallery();
  say(word("enrolled", { name, count: templates }));
}

// ---- the camera

function snapshot() {
  const video = $("video"), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise(resolve => canvas.toBlob(resolve, "image/jpeg", 0.9));
}

async function toggleCamera() {
  const video = $("video");
  if (video.srcObject) {
    stopLive();
    for (const track of video.srcObject.getTracks()) track.stop();
    video.srcObject = null;
  } else {
    try {
      const wanted = { width: 640, height: 480, facingMode: "user" };
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted });
    } catch (error) {
      throw new Error(word("noCamera", { reason: error.message }));
    }
    await video.play();
  }
  const on = Boolean(video.srcObject);
  press($("camera"), on, "camera");
  $("identify").disabled = $("from-camera").disabled = !on;
}

function press(button, on, key) {
  button.setAttribute("aria-pressed", on);
  button.dataset.text = on ? `${key}Off` : key;
  button.textContent = word(button.dataset.text);
}

function stopLive() {
  state.live = false;
  press($("identify"), false, "identify");
  draw(null);
  $("who").textContent = "";
}

async function toggleLive() {
  if (state.live) return stopLive();
  state.live = true;
  press($("identify"), true, "identify");
  while (state.live) {
    await identifyOnce();
    await new Promise(resolve => setTimeout(resolve, LIVE_PAUSE_MS));
  }
}

async function identifyOnce() {
  let found = null, text;
  try {
    found = await call(`v1/identify?fmr=${chosenRate().fmr}`, form([["photo", await snapshot()]]));
    text = found.name ?? word("unknown");
  } catch (error) {
    text = error.message;
  }
  if (!state.live) return;
  draw(found, text);
  if ($("who").textContent !== text) $("who").textContent = text;  // said once, not every frame
}

function draw(found, text) {
  const video = $("video"), canvas = $("overlay"), pen = canvas.getContext("2d");
  [canvas.width, canvas.height] = [video.videoWidth || 1, video.videoHeight || 1];
  if (!found) return;
  const { x, y, width, height } = found.box;
  pen.strokeStyle = pen.fillStyle = found.name ? "#3fd0b0" : "#ffa94d";
  pen.lineWidth = 4;
  pen.strokeRect(x, y, width, height);
  pen.font = "bold 24px system-ui";
  pen.fillText(text, x, y + height + 28);
}

// ---- the start

$("language").value = localStorage.language ?? (navigator.language.startsWith("zh") ? "zh" : "en");
$("language").addEventListener("change", translate);
$("key-form").addEventListener("submit", attempt(() => { state.key = $("key").value; return enter(); }));
$("threshold").addEventListener("input", showRate);
$("more").addEventListener("click", attempt(loadMore));
$("camera").addEventListener("click", attempt(toggleCamera));
$("identify").addEventListener("click", attempt(toggleLive));
$("enroll-form").addEventListener("submit", attempt(() => enroll([...$("photos").files])));
$("from-camera").addEventListener("click", attempt(async () => {
  const photo = await snapshot();
  await enroll([photo]);
}));
translate();
// a key of this tab, or a service that asks for none
enter().catch(error => { if (state.key) say(error.message); });
