// The live state: history first, then one stream. Silent while the tab is hidden or paused; comes back by itself.
import { ApiError, call, events, get, key, type State } from './api';

export type Link = 'connecting' | 'live' | 'paused' | 'lost';

export interface FeedEvents {
  history(s: State): void; // with s.history
  state(s: State): void;
  link(l: Link, detail: string): void;
  needKey(message: string): void;
}

const STALE_MS = 12_000; // without an event the connection counts as dead

export function createFeed(on: FeedEvents) {
  let running: AbortController | null = null;
  let paused = false, waitingForKey = false;
  let delayMs = 500;

  function wanted(): boolean {
    return !paused && !waitingForKey && !document.hidden;
  }

  function update(): void {
    if (wanted() && !running) void run();
    else if (!wanted() && running) {
      running.abort();
      running = null;
    }
    if (paused) on.link('paused', '');
  }

  async function once(c: AbortController): Promise<void> {
    on.history(await get<State>('v1/weir/state', c.signal));
    const r = await call('v1/weir/stream', { signal: c.signal, headers: { Accept: 'text/event-stream' } });
    let watch = 0;
    let stale = false;
    const rearm = () => {
      clearTimeout(watch);
      watch = window.setTimeout(() => {
        stale = true;
        c.abort();
      }, STALE_MS);
    };
    try {
      rearm();
      for await (const e of events(r)) {
        rearm();
        if (e.name !== 'state') continue;
        const s = JSON.parse(e.data) as State;
        delayMs = 500;
        on.link('live', s.health);
        on.state(s);
      }
    } catch (e) {
      if (!stale) throw e;
    } finally {
      clearTimeout(watch);
    }
    throw new Error(stale ? 'nothing came for too long' : 'the stream ended');
  }

  async function run(): Promise<void> {
    while (wanted()) {
      const c = new AbortController();
      running = c;
      let wait = delayMs;
      try {
        on.link('connecting', '');
        await once(c);
      } catch (e) {
        if (running !== c) return; // stopped on purpose; another run may have begun
        if (e instanceof ApiError && (e.status === 401 || e.status === 403)) {
          running = null;
          waitingForKey = true;
          on.link('lost', 'key needed');
          on.needKey(!key.get() ? '' : e.status === 403 ? 'This key may not see the whole server: an admin’s key is needed.' : 'The server does not know this key.');
          return;
        }
        if (e instanceof ApiError && e.retryAfterS) wait = Math.max(wait, e.retryAfterS * 1000);
        on.link('lost', e instanceof ApiError ? e.message : 'no connection');
      }
      delayMs = Math.min(delayMs * 1.7, 15_000);
      // A little spread, so that many pages don't come back at once.
      await new Promise((done) => setTimeout(done, wait * (0.8 + 0.4 * Math.random())));
      if (running !== c) return;
      running = null;
    }
    running = null;
  }

  document.addEventListener('visibilitychange', update);
  window.addEventListener('online', () => { // don't sit out the wait
    if (!running) return;
    delayMs = 500;
    running.abort();
    running = null;
    update();
  });

  return {
    start: update,
    pause(p: boolean) {
      paused = p;
      update();
    },
    setKey(k: string) {
      key.set(k);
      waitingForKey = false;
      delayMs = 500;
      update();
    },
  };
}
