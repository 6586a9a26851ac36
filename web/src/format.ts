// Numbers as people read them: three significant digits, SI prefixes, units always there, widths that do not jump.

const prefixes = ['', 'k', 'M', 'G', 'T', 'P', 'E'];
export const NONE = '–';
const THIN = '\u202f'; // narrow no-break space between number and unit

function digits(x: number): string {
  const a = Math.abs(x);
  return a < 9.995 ? x.toFixed(2) : a < 99.95 ? x.toFixed(1) : x.toFixed(0);
}

export type Text = [value: string, unit: string];

export function si(x: number | null | undefined, unit: string): Text {
  if (x == null || !isFinite(x)) return [NONE, ''];
  let i = 0;
  while (Math.abs(x) >= 999.5 && i < prefixes.length - 1) {
    x /= 1000;
    i++;
  }
  return [i ? digits(x) : Number.isInteger(x) ? String(x) : digits(x), prefixes[i] + unit];
}

export function duration(s: number | null | undefined): Text {
  if (s == null || !isFinite(s)) return [NONE, ''];
  const a = Math.abs(s);
  if (a < 5e-9) return ['0', 's'];
  if (a < 0.0009995) return [digits(s * 1e6), 'µs'];
  if (a < 0.9995) return [digits(s * 1e3), 'ms'];
  if (a < 119.5) return [digits(s), 's'];
  if (a < 7170) return [(s / 60).toFixed(a < 600 ? 1 : 0), 'min'];
  if (a < 172800) return [(s / 3600).toFixed(1), 'h'];
  return [(s / 86400).toFixed(1), 'd'];
}

export function percent(x: number | null | undefined): Text {
  if (x == null || !isFinite(x)) return [NONE, ''];
  const p = 100 * x;
  return [Math.abs(p) < 9.95 ? p.toFixed(1) : p.toFixed(0), '%'];
}

export function count(n: number | null | undefined): string {
  if (n == null || !isFinite(n)) return NONE;
  if (n < 10000) return String(Math.round(n));
  const [v, u] = si(n, '');
  return v + THIN + u;
}

export const join = ([v, u]: Text): string => (u ? v + THIN + u : v);
export const bytes = (x: number | null | undefined) => join(si(x, 'B'));
export const rate = (x: number | null | undefined) => join(si(x, 'B/s'));
export const secs = (x: number | null | undefined) => join(duration(x));
export const pct = (x: number | null | undefined) => join(percent(x));
export const plural = (n: number, one: string, many = one + 's') => `${count(n)} ${n === 1 ? one : many}`;

// For axes: no zeros that say nothing.
export const round = ([v, u]: Text): string => (Number(v) ? join([String(Number(v)), u]) : '0');

const two = (n: number) => String(n).padStart(2, '0');
export function clock(t: number): string {
  const d = new Date(t * 1000);
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}
