#include "base/suggest.h"

#include <ctype.h>
#include <string.h>

#define MAX_LEN 63

static char fold(char c)
{
    return strchr("_ .", c) && c ? '-' : (char)tolower((unsigned char)c);
}

static size_t folded(const char *s, char out[MAX_LEN + 1])
{
    size_t n = 0;
    for (; n < MAX_LEN && s[n]; n++)
        out[n] = fold(s[n]);
    out[n] = 0;
    return n;
}

int suggest_same(const char *a, const char *b)
{
    char x[MAX_LEN + 1], y[MAX_LEN + 1];
    folded(a, x);
    folded(b, y);
    return !strcmp(x, y);
}

unsigned suggest_distance(const char *a, const char *b)
{
    char x[MAX_LEN + 1], y[MAX_LEN + 1];
    size_t n = folded(a, x), m = folded(b, y);
    unsigned row[3][MAX_LEN + 1] = {{0}};
    for (size_t j = 0; j <= m; j++)
        row[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned d = last[j - 1] + (x[i - 1] != y[j - 1]);
            d = last[j] + 1 < d ? last[j] + 1 : d;
            d = now[j - 1] + 1 < d ? now[j - 1] + 1 : d;
            if (i > 1 && j > 1 && x[i - 1] == y[j - 2] && x[i - 2] == y[j - 1] && before[j - 2] + 1 < d)
                d = before[j - 2] + 1;
            now[j] = d;
        }
    }
    return row[n % 3][m];
}

const char *suggest_nearest(const char *wrong, const char *const *names, size_t n)
{
    const char *best = NULL;
    unsigned best_distance = ~0u;
    char w[MAX_LEN + 1], c[MAX_LEN + 1];
    size_t wn = folded(wrong, w);
    for (size_t i = 0; i < n; i++) {
        size_t cn = folded(names[i], c), longer = wn > cn ? wn : cn, shorter = wn < cn ? wn : cn;
        unsigned d = suggest_distance(wrong, names[i]);
        int prefix = shorter >= 2 && !memcmp(w, c, shorter);
        if ((d <= longer / 3 || prefix) && d < best_distance)
            best = names[i], best_distance = d;
    }
    return best;
}
