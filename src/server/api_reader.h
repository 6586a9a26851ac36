/* Between api_params.c (generation parameters) and api_prompts.c (prompts and messages): reading one request body.
 * Private to these two. Readers return 1 if read, 0 if absent (the output keeps its default), -1 with *e filled. */
#ifndef WEIR_SERVER_API_READER_H
#define WEIR_SERVER_API_READER_H

#include "server/api_params.h"

struct reader {
    const json_t *body; /* an object */
    const struct api_limits *limits;
    struct api_error *e;
};

int reader_int(struct reader *r, const char *key, int64_t min, int64_t max, int64_t *out);
int reader_u32(struct reader *r, const char *key, int64_t min, int64_t max, uint32_t *out);
int reader_float(struct reader *r, const char *key, double min, double max, float *out);
int reader_double(struct reader *r, const char *key, double min, double max, double *out);
int reader_bool(struct reader *r, const char *key, bool *out);
int reader_str(struct reader *r, const char *key, const char **out, size_t *n);
const json_t *reader_member(struct reader *r, const char *key); /* NULL if absent or null */

int reader_fail(struct reader *r, const char *param, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int reader_no_memory(struct reader *r);

int reader_prompts(struct reader *r, struct api_params *p);
int reader_messages(struct reader *r, struct api_params *p);
int reader_tokenize(struct reader *r, struct api_params *p);
int reader_detokenize(struct reader *r, struct api_params *p);

#endif
