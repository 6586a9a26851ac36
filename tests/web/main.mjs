import { runAll } from '../http/lib.mjs';
import './files.mjs';
import './page.mjs';
import './reports.mjs';
import './use.mjs';
await runAll();
