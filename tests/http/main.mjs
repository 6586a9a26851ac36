import { runAll } from './lib.mjs';
import './api.mjs';
import './errors.mjs';
import './connections.mjs';
import './life.mjs';
import './observe.mjs';
import './top.mjs';

await runAll();
