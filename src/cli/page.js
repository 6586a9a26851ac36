/* What the pages of `weir plan` and `weir replay` share. */
const $ = id => document.getElementById(id);
const si = (x, unit = "") => {
  const p = ["", "k", "M", "G", "T", "P", "E"]; let i = 0;
  while (Math.abs(x) >= 999.5 && i < 6) { x /= 1000; i++; }
  return (Math.abs(x) < 10 && (i || x % 1) ? x.toFixed(2) : Math.abs(x) < 100 && (i || x % 1) ? x.toFixed(1) : x.toFixed(0)) + " " + p[i] + unit;
};
const many = x => x < 1e9 ? (x / 1e6).toFixed(0) + " million" : (x / 1e9).toFixed(x < 1e10 ? 2 : 1) + " billion";
const rate = x => x < 99.95 ? x.toFixed(1) : x < 9999.5 ? x.toFixed(0) : (x / 1000).toFixed(x < 99950 ? 1 : 0) + "k";
const secs = s => s < 0.0995 ? (1000 * s).toFixed(1) + " ms" : s < 0.9995 ? (1000 * s).toFixed(0) + " ms" : s.toFixed(1) + " s";
const toks = n => n >= 1024 && n % 1024 === 0 ? n / 1024 + "k" : n >= 1e6 ? (n / 1e6).toPrecision(3) + "M" : "" + Math.round(n);
const el = (tag, text, cls) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (cls) e.className = cls; return e; };
const svg = (tag, attrs, text) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const k in attrs) e.setAttribute(k, attrs[k]);
  if (text !== undefined) e.textContent = text;
  return e;
};
function table(into, heads, rows) {
  const t = el("table"), h = el("tr");
  heads.forEach(x => h.append(el("th", x)));
  t.append(el("thead")); t.tHead.append(h);
  const b = el("tbody"); t.append(b);
  rows.forEach(r => { const tr = el("tr"); r.forEach(x => { const td = el("td"); td.append(x); tr.append(td); }); b.append(tr); });
  into.append(t); into.hidden = false;
}
const tile = (v, t) => { const e = el("div", undefined, "tile"); e.append(el("b", v), el("span", t)); $("tiles").append(e); };
