// Colours: as the system says, or as chosen; the choice is kept in this browser.
import { $, attr, text } from './dom';

const KEY = 'weir-theme';
const dark = matchMedia('(prefers-color-scheme: dark)');
type Choice = 'auto' | 'light' | 'dark';
const next: Record<Choice, Choice> = { auto: 'light', light: 'dark', dark: 'auto' };
const icon: Record<Choice, string> = { auto: '◐', light: '○', dark: '●' };

export function initTheme(changed: () => void): void {
  const choice = (): Choice => (localStorage.getItem(KEY) as Choice | null) ?? 'auto';
  function apply(): void {
    const c = choice();
    document.documentElement.dataset.theme = c === 'auto' ? (dark.matches ? 'dark' : 'light') : c;
    const b = $('theme');
    text(b, icon[c] ?? icon.auto);
    attr(b, 'aria-label', `Colours: ${c === 'auto' ? 'as the system' : c}`);
    changed();
  }
  $('theme').addEventListener('click', () => {
    localStorage.setItem(KEY, next[choice()] ?? 'light');
    apply();
  });
  dark.addEventListener('change', apply);
  apply();
}
