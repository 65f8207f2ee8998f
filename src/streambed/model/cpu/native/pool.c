#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MOST_THREADS = 256, SPINS = 4000, STACK = 4 << 20 /* attention keeps a megabyte and more there */ };
#define NO_PIECE UINT32_MAX

struct sb_pool {
    _Atomic uint64_t next; /* number of the job in the upper half, its next piece in the lower */
    _Atomic uint32_t pieces;
    _Atomic int done, sleeping, closing;
    sb_work work;
    void *job;
    int threads;
    pthread_mutex_t lock;
    pthread_cond_t woken;
    pthread_t workers[MOST_THREADS];
};

static inline void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Takes pieces of job `number` until there are none. What the job is may be read once a piece of it is held: until that
 * piece is done, the job cannot end. */
static void take_pieces(sb_pool *pool, uint32_t number) {
    for (;;) {
        uint64_t next = atomic_load_explicit(&pool->next, memory_order_acquire);
        uint32_t piece = (uint32_t)next;
        if (next >> 32 != number || piece >= atomic_load_explicit(&pool->pieces, memory_order_relaxed)) return;
        if (!atomic_compare_exchange_weak_explicit(&pool->next, &next, next + 1, memory_order_acq_rel,
                                                   memory_order_relaxed))
            continue;
        pool->work(pool->job, (int)piece);
        atomic_fetch_add_explicit(&pool->done, 1, memory_order_release);
    }
}

static void *serve(void *of) {
    sb_pool *pool = of;
    uint32_t seen = 0;
    for (;;) {
        uint32_t number = seen;
        for (int spin = 0; spin < SPINS && number == seen; spin++) {
            pause_cpu();
            number = atomic_load_explicit(&pool->next, memory_order_acquire) >> 32;
        }
        if (number == seen) {
            pthread_mutex_lock(&pool->lock);
            atomic_fetch_add(&pool->sleeping, 1);
            while ((number = atomic_load(&pool->next) >> 32) == seen && !atomic_load(&pool->closing))
                pthread_cond_wait(&pool->woken, &pool->lock);
            atomic_fetch_sub(&pool->sleeping, 1);
            pthread_mutex_unlock(&pool->lock);
        }
        if (atomic_load(&pool->closing)) return NULL;
        seen = number;
        take_pieces(pool, number);
    }
}

sb_pool *sb_pool_open(int threads) {
    sb_pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->woken, NULL);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    for (pool->threads = 1; pool->threads < threads && pool->threads <= MOST_THREADS; pool->threads++)
        if (pthread_create(&pool->workers[pool->threads - 1], &attributes, serve, pool)) break; /* fewer will do */
    pthread_attr_destroy(&attributes);
    return pool;
}

void sb_pool_close(sb_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->closing, 1);
    pthread_cond_broadcast(&pool->woken);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i + 1 < pool->threads; i++) pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->woken);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void sb_pool_run(sb_pool *pool, sb_work work, void *job, int pieces) {
    if (pool->threads == 1 || pieces < 2) {
        for (int piece = 0; piece < pieces; piece++) work(job, piece);
        return;
    }
    uint32_t number = (uint32_t)(atomic_load(&pool->next) >> 32);
    atomic_store(&pool->next, (uint64_t)number << 32 | NO_PIECE); /* a thread still at the last job takes none of this */
    pool->work = work;
    pool->job = job;
    atomic_store(&pool->pieces, (uint32_t)pieces);
    atomic_store(&pool->done, 0);
    atomic_store(&pool->next, (uint64_t)++number << 32);
    if (atomic_load(&pool->sleeping)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->woken);
        pthread_mutex_unlock(&pool->lock);
    }
    take_pieces(pool, number);
    for (int spin = 0; atomic_load_explicit(&pool->done, memory_order_acquire) < pieces; spin++) {
        if (spin < SPINS) pause_cpu();
        else sched_yield(); /* whoever holds the last piece may be waiting for this core */
    }
}
