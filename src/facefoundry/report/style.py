"""The page's style sheet and its one script."""

import re

CSS = """
:root { color-scheme: light dark;
  --paper: #f7f7f5; --card: #ffffff; --ink: #1d2129; --soft: #5c6470; --line: #d9dce1;
  --model: #3b5bdb; --sface: #d9730d; --pixels: #868e96;
  --genuine: #0b8f77; --impostor: #d6336c; --warn: #9a5b00; --warn-card: #fff6e0; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14161a; --card: #1d2026; --ink: #e8eaed; --soft: #a0a7b3; --line: #383d47;
  --model: #8ea6ff; --sface: #ffa94d; --pixels: #9aa2ad;
  --genuine: #3fd0b0; --impostor: #ff7eab; --warn: #ffcf70; --warn-card: #2c2616; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main, header > div, nav > div { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding: 44px 0 8px; }
.kicker { margin: 0; color: var(--model); font-weight: 650; letter-spacing: .04em; }
h1 { margin: 4px 0 18px; font-size: clamp(1.6rem, 1.1rem + 2.4vw, 2.5rem); line-height: 1.2;
  letter-spacing: -.015em; text-wrap: balance; }
h2 { margin: 0 0 14px; font-size: 1.35rem; letter-spacing: -.01em; }
h3 { margin: 26px 0 10px; font-size: 1.02rem; }
.lead { margin: 0 0 26px; padding: 0; list-style: none; max-width: 46rem; }
.lead li { margin: 0 0 8px; }
.numbers { display: grid; gap: 12px; margin: 0 0 28px;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.numbers div { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 14px 16px; }
.numbers b { display: block; font-size: 1.6rem; line-height: 1.25; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.numbers span { color: var(--soft); font-size: .86rem; }
nav { position: sticky; top: 0; z-index: 2; background: var(--paper);
  border-bottom: 1px solid var(--line); }
nav > div { display: flex; gap: 20px; overflow-x: auto; padding-block: 10px;
  scrollbar-width: none; white-space: nowrap; }
nav a { color: var(--soft); text-decoration: none; font-size: .92rem; }
nav a:hover, nav a:focus { color: var(--model); }
section { margin: 26px 0; padding: 24px; background: var(--card); border: 1px solid var(--line);
  border-radius: 14px; scroll-margin-top: 60px; min-width: 0; }
p, li { overflow-wrap: anywhere; }
section > p { max-width: 46rem; }
.grid { display: grid; gap: 22px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
figure { margin: 0 0 6px; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 470px; }
figcaption { margin-top: 8px; }
figcaption, .note { color: var(--soft); font-size: .88rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.sheet { border-radius: 10px; }
.sheet img { display: block; width: 100%; min-width: 640px; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td { white-space: nowrap; } .prose td { white-space: normal; min-width: 5.5em; }
.scroll + .grid, .scroll + .scroll { margin-top: 18px; }
thead th { color: var(--soft); font-weight: 550; font-size: .84rem; }
tbody th { font-weight: 550; }
tbody tr:last-child > * { border-bottom: 0; }
details { margin-top: 14px; } summary { cursor: pointer; }
.absent { background: var(--warn-card); color: var(--warn); border-radius: 10px;
  padding: 10px 14px; margin: 0; }
.matrix { display: grid; grid-template-columns: auto 1fr 1fr; gap: 8px; max-width: 460px; }
.matrix > span { color: var(--soft); font-size: .86rem; align-self: center; }
.matrix div { border-radius: 10px; padding: 12px; border: 1px solid var(--line); }
.matrix b { display: block; font-size: 1.25rem; }
.matrix small { color: var(--soft); }
.good { background: color-mix(in srgb, var(--genuine) 14%, transparent); }
.bad { background: color-mix(in srgb, var(--impostor) 14%, transparent); }
.slider { margin-top: 18px; } .slider input { width: 100%; accent-color: var(--model); }
.slider[hidden] { display: none; }
pre, code { font: .88rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { overflow-x: auto; background: var(--paper); border: 1px solid var(--line);
  border-radius: 10px; padding: 14px; margin: 0; }
footer { color: var(--soft); font-size: .86rem; padding: 0 0 40px; text-align: center; }
@media (max-width: 560px) { main, header > div, nav > div { padding-inline: 14px; }
  section { padding: 18px 14px; } .numbers { grid-template-columns: 1fr 1fr; }
  .numbers div:last-child { grid-column: 1 / -1; } }
@media print { nav, .slider { display: none; } section { break-inside: avoid; } }
"""
# the style sheet's first colours, those of light paper: {"--ink": "#1d2129"}
LIGHT = dict(re.findall(r"(--\w+): (#\w{6})", CSS.partition("@media")[0]))

# Without the script the slider stays hidden and everything else is there.
SCRIPT = """
for (const box of document.querySelectorAll(".slider")) {
  const points = JSON.parse(box.dataset.points);
  const input = box.querySelector("input"), output = box.querySelector("output");
  const share = x => (100 * x).toFixed(2) + " %";
  const show = () => {
    const [threshold, fmr, tar] = points[input.value];
    output.textContent = `threshold ${threshold.toFixed(3)}: accepts ${share(tar)} of genuine ` +
      `and ${share(fmr)} of impostor pairs`;
  };
  input.max = points.length - 1;
  input.value = box.dataset.start;
  input.addEventListener("input", show);
  show();
  box.hidden = false;
}
"""
