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

// Children of `parent` become one for each item, kept by key: `make` builds, `update` refreshes.
export function keyed<T>(
  parent: HTMLElement, items: T[], key: (t: T) => string,
  make: (t: T) => HTMLElement, update: (e: HTMLElement, t: T) => void,
): void {
  const old = new Map<string, HTMLElement>();
  for (const c of Array.from(parent.children) as HTMLElement[]) old.set(c.dataset.key ?? '', c);
  let at: Element | null = parent.firstElementChild;
  for (const item of items) {
    const k = key(item);
    let e = old.get(k);
    if (e) old.delete(k);
    else {
      e = make(item);
      e.dataset.key = k;
    }
    update(e, item);
    if (e === at) at = at.nextElementSibling;
    else parent.insertBefore(e, at);
  }
  for (const e of old.values()) e.remove();
}
