/* `weir bench model`, which cmd_bench calls with argv[0] "model". Returns the exit status. */
#ifndef WEIR_CLI_BENCH_MODEL_H
#define WEIR_CLI_BENCH_MODEL_H

int bench_model(int argc, char **argv);

#endif
