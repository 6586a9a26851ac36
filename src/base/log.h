/* Structured logs on stderr: one line an event, as text or as one JSON object.
 *
 *   LOG(LOG_INFO, "request done", {"id", log_u64(id)}, {"ttft_s", log_f64(t)}, {"model", log_str(name)});
 *
 * Keys are literals; values are tagged. Prompts, outputs and key values are never logged. Thread-safe: a line is
 * written with a single write(2). The level and format are set once at start-up.
 */
#ifndef WEIR_BASE_LOG_H
#define WEIR_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };
enum log_format { LOG_TEXT, LOG_JSON };

struct log_value {
    enum { LOG_V_STR, LOG_V_I64, LOG_V_U64, LOG_V_F64, LOG_V_BOOL } kind;
    union {
        const char *str;
        int64_t i64;
        uint64_t u64;
        double f64;
        bool b;
    };
};

struct log_field {
    const char *key;
    struct log_value value;
};

static inline struct log_value log_str(const char *s)
{
    return (struct log_value){.kind = LOG_V_STR, .str = s};
}
static inline struct log_value log_i64(int64_t v)
{
    return (struct log_value){.kind = LOG_V_I64, .i64 = v};
}
static inline struct log_value log_u64(uint64_t v)
{
    return (struct log_value){.kind = LOG_V_U64, .u64 = v};
}
static inline struct log_value log_f64(double v)
{
    return (struct log_value){.kind = LOG_V_F64, .f64 = v};
}
static inline struct log_value log_bool(bool v)
{
    return (struct log_value){.kind = LOG_V_BOOL, .b = v};
}

void log_setup(enum log_level level, enum log_format format);
bool log_enabled(enum log_level level);

/* At most LOG_MAX_FIELDS fields; a line is cut at 4,096 bytes. */
#define LOG_MAX_FIELDS 16
void log_write(enum log_level level, const char *msg, const struct log_field *fields, int n_fields);

/* LOG(level, "message", {"key", log_u64(1)}, ...) */
#define LOG(level, msg, ...)                                                                                           \
    do {                                                                                                               \
        if (log_enabled(level)) {                                                                                      \
            const struct log_field log_fields_[] = {{0}, ##__VA_ARGS__};                                               \
            log_write(level, msg, log_fields_ + 1, (int)(sizeof log_fields_ / sizeof *log_fields_) - 1);               \
        }                                                                                                              \
    } while (0)

#endif
