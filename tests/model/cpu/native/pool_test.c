/* Many short jobs, one after another: each piece runs once, within its own job. Run under the thread sanitizer. */
#include "pool.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { JOBS = 60000, MOST = 70 };

typedef struct {
    int number;
    int plain[MOST]; /* written without atomics: a piece that ran outside its job would be a race */
} job;

static _Atomic int current;

static void piece(void *of, int index) {
    job *mine = of;
    if (atomic_load(&current) != mine->number) {
        fprintf(stderr, "piece %d of job %d ran in job %d\n", index, mine->number, atomic_load(&current));
        exit(1);
    }
    for (volatile int work = 0; work < 40 * (index % 7); work++) continue; /* so that other threads get pieces, too */
    mine->plain[index]++;
}

int main(void) {
    sb_pool *pool = sb_pool_open(4);
    for (int number = 1; number <= JOBS; number++) {
        job one = {.number = number};
        int pieces = rand() % MOST;
        atomic_store(&current, number);
        sb_pool_run(pool, piece, &one, pieces);
        for (int index = 0; index < MOST; index++)
            if (one.plain[index] != (index < pieces)) {
                fprintf(stderr, "piece %d of %d ran %d times\n", index, pieces, one.plain[index]);
                return 1;
            }
        if (number % 4000 == 0) usleep(2000); /* long enough for threads to fall asleep */
    }
    sb_pool_close(pool);
    return 0;
}
