/* Runs a fuzz target (LLVMFuzzerTestOneInput) over every file of a corpus folder, and over each file cut short and with
 * bytes flipped, so that `make test` exercises the parsers with any compiler. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t n_inputs;

/* Each input is a fresh heap block of its exact size, so that a sanitiser sees a read past it. */
static void one(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy)
        abort();
    memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
    n_inputs++;
}

static void mutations(uint8_t *data, size_t n)
{
    one(data, n);
    uint64_t seed = 0x9e3779b97f4a7c15u ^ n;
    size_t tries = n < (1u << 16) ? 200 : 20;
    for (size_t i = 0; i < tries && n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size_t at = (size_t)(seed >> 33) % n;
        uint8_t old = data[at];
        data[at] = (uint8_t)(seed >> 20);
        one(data, n);
        data[at] = old;
        one(data, at);
    }
}

int main(int argc, char **argv)
{
    const char *dir = argc > 1 ? argv[1] : ".";
    DIR *d = opendir(dir);
    if (!d) {
        printf("not ok no corpus at %s\n", dir);
        return 1;
    }
    size_t n_files = 0;
    for (struct dirent *f; (f = readdir(d));) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        FILE *in = f->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (!in)
            continue;
        static uint8_t data[1 << 20];
        size_t n = fread(data, 1, sizeof data, in);
        fclose(in);
        mutations(data, n);
        n_files++;
    }
    closedir(d);
    printf("%s %s: %zu files, %zu inputs\n", n_files ? "ok" : "not ok", argv[0], n_files, n_inputs);
    return n_files ? 0 : 1;
}
