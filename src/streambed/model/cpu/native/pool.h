/* Threads that take a job's pieces one by one, together with the caller. A thread that has lost its slice of time takes no
 * piece, so nobody waits for it; between the parallel regions of a step they spin for a moment, then sleep. */
#pragma once
#include <stdint.h>

#define SB_PUBLIC __attribute__((visibility("default")))

typedef struct sb_pool sb_pool;
typedef void (*sb_work)(void *job, int piece);

SB_PUBLIC sb_pool *sb_pool_open(int threads);
SB_PUBLIC void sb_pool_close(sb_pool *pool);
/* Runs `work` for pieces 0 .. pieces - 1, each once, and returns when all are done. One caller at a time. */
void sb_pool_run(sb_pool *pool, sb_work work, void *job, int pieces);
