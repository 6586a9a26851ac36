// The few helpers that stand in for a framework. Text goes in as text nodes only: nothing from the server is markup.

type Child = Node | string | number | null | undefined | false;
type Props = Record<string, unknown>;

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K, props: Props | null, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(props ?? {})) {
    if (v == null || v === false) continue;
    if (k === 'class') e.className = String(v);
    else if (k.startsWith('on')) e.addEventListener(k.slice(2), v as EventListener);
    else if (k === 'vars') for (const [name, value] of Object.entries(v as Props)) e.style.setProperty(name, String(value));
    else e.setAttribute(k, v === true ? '' : String(v));
  }
  for (const c of children) if (c != null && c !== false) e.append(c instanceof Node ? c : String(c));
  return e;
}

export function $<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

// Writes only what changed, so that an idle page costs no layout.
export function text(e: Element, s: string): void {
  if (e.textContent !== s) e.textContent = s;
}

export function attr(e: Element, name: string, value: string): void {
  if (e.getAttribute(name) !== value) e.setAttribute(name, value);
}

// Children of `parent` become one for each item, kept by key (the n-th of a key is the n-th again): `make` builds,
// `update` refreshes. Focus stays on its item; of one that is gone it goes to the next, of the last to what holds them.
export function keyed<T>(
  parent: HTMLElement, items: T[], key: (t: T) => string,
  make: (t: T) => HTMLElement, update: (e: HTMLElement, t: T) => void,
): void {
  const before = Array.from(parent.children) as HTMLElement[];
  const old = new Map(before.map((c) => [c.dataset.key ?? '', c]));
  const focused = document.activeElement as HTMLElement | null, place = before.findIndex((c) => c.contains(focused));
  const times = new Map<string, number>();
  const keys = items.map((item) => {
    const k = key(item), n = times.get(k) ?? 0;
    times.set(k, n + 1);
    return n ? `${k} ${n}` : k;
  });
  const wanted = new Set(keys);
  // First, so that those that stay need not move: moving costs focus and the click that is under way.
  for (const [k, e] of old) if (!wanted.has(k)) e.remove();
  let at: Element | null = parent.firstElementChild;
  items.forEach((item, i) => {
    const k = keys[i];
    let e = old.get(k);
    if (!e) {
      e = make(item);
      e.dataset.key = k;
    }
    update(e, item);
    if (e === at) at = at.nextElementSibling;
    else parent.insertBefore(e, at);
  });
  if (place < 0 || document.activeElement === focused) return;
  const next = [...before.slice(place), ...before.slice(0, place).reverse()].find((c) => c.isConnected) ?? parent.firstElementChild;
  const heir = before[place].isConnected ? focused : next?.querySelector<HTMLElement>('button') ?? parent.closest<HTMLElement>('[tabindex]');
  heir?.focus({ preventScroll: true });
}
