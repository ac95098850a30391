/* A crew: threads that share the work of one batch, and do nothing else.
 *
 *   caller    publish | take items ............ | close | wait until nobody is inside
 *   worker       wake | enter, take items, leave |
 *
 * Fork and join, batch by batch: between two batches no worker touches anything, so all that is Python's, and all
 * that lasts, has one owner, who holds the GIL throughout. Items are taken one run at a time from a common
 * counter: whoever is fast takes more, and one whose core stands still takes none. A worker that has waited for
 * SPIN_NS sleeps; who publishes wakes it, and begins without it. */

#include "native.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    STACK = 256 * 1024, /* locked into memory whole, so no more than it takes */
    SPIN_NS = 50 * 1000, /* as long as it takes to wake up, more or less */
    PAUSES = 32,         /* between two looks at the clock */
    PATIENCE = 4096,     /* pauses before whoever waits for a worker lets others have its core */
};

static struct {
    pthread_t threads[MAX_THREADS];
    int workers; /* beside the caller */
    Work work;
    void *context;
    size_t count, run;
    _Alignas(64) atomic_uint batch; /* odd: there is work; a futex */
    _Alignas(64) atomic_size_t next;
    _Alignas(64) atomic_int inside, asleep;
    atomic_bool over;
} crew;

static _Thread_local bool working;

bool crew_worker(void)
{
    return working;
}

int crew_size(void)
{
    return crew.workers + 1;
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static long long clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void take_items(int who)
{
    size_t first;
    while ((first = atomic_fetch_add(&crew.next, crew.run)) < crew.count) {
        size_t end = first + crew.run < crew.count ? first + crew.run : crew.count;
        for (size_t item = first; item < end; item++)
            crew.work(crew.context, item, who);
    }
}

/* Wait until there is another batch than `seen`; return its number. */
static unsigned await(unsigned seen)
{
    long long since = clock_ns();
    for (;;) {
        for (int i = 0; i < PAUSES; i++) {
            unsigned batch = atomic_load(&crew.batch);
            if ((batch & 1 && batch != seen) || atomic_load(&crew.over))
                return batch;
            relax();
        }
        if (clock_ns() - since < SPIN_NS)
            continue;
        unsigned batch = atomic_load(&crew.batch);
        if (batch & 1 && batch != seen)
            continue;
        /* Counted before the kernel compares: whoever publishes sees this count, or the kernel its batch. */
        atomic_fetch_add(&crew.asleep, 1);
        syscall(SYS_futex, &crew.batch, FUTEX_WAIT_PRIVATE, batch, NULL, NULL, 0);
        atomic_fetch_sub(&crew.asleep, 1);
        since = clock_ns();
    }
}

static void *live(void *number)
{
    int who = (int)(intptr_t)number;
    unsigned seen = 0;
    working = true;
    while (seen = await(seen), !atomic_load(&crew.over)) {
        /* Entered before the batch is looked at again: whoever closes it sees us inside, or we see it closed. */
        atomic_fetch_add(&crew.inside, 1);
        if (atomic_load(&crew.batch) == seen)
            take_items(who);
        atomic_fetch_sub(&crew.inside, 1);
    }
    return NULL;
}

static void wake(void)
{
    if (atomic_load(&crew.asleep) > 0)
        syscall(SYS_futex, &crew.batch, FUTEX_WAKE_PRIVATE, MAX_THREADS, NULL, NULL, 0);
}

void crew_share(Work work, void *context, size_t count, size_t run)
{
    if (crew.workers == 0 || count <= run) {
        for (size_t item = 0; item < count; item++)
            work(context, item, 0);
        return;
    }
    crew.work = work, crew.context = context, crew.count = count, crew.run = run;
    atomic_store(&crew.next, 0);
    atomic_fetch_add(&crew.batch, 1);
    wake();
    take_items(0);
    atomic_fetch_add(&crew.batch, 1);
    for (int waited = 0; atomic_load(&crew.inside) > 0; waited++)
        if (waited < PATIENCE)
            relax();
        else
            sched_yield(); /* it may have to run on this core */
}

static void dismiss(void)
{
    atomic_store(&crew.over, true);
    atomic_fetch_add(&crew.batch, 2);
    wake();
    for (int i = 0; i < crew.workers; i++)
        pthread_join(crew.threads[i], NULL);
    crew.workers = 0;
    atomic_store(&crew.over, false);
}

/* A fork's child has no threads but the one that forked. */
static void orphan(void)
{
    crew.workers = 0;
    atomic_store(&crew.inside, 0);
    atomic_store(&crew.asleep, 0);
}

static bool hire(int number)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    char name[16];
    if (pthread_attr_init(&attributes) != 0)
        return false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the thread that has Python */
    bool hired = pthread_attr_setstacksize(&attributes, STACK) == 0 &&
                 pthread_create(&crew.threads[number], &attributes, live, (void *)(intptr_t)(number + 1)) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (hired) {
        snprintf(name, sizeof name, "crew-%d", number + 1);
        pthread_setname_np(crew.threads[number], name);
    }
    return hired;
}

/* threads(n) -> how many there are: fewer where no more can be had. They inherit scheduling and privileges. */
PyObject *crew_threads(PyObject *module, PyObject *argument)
{
    static bool told;
    long wanted = PyLong_AsLong(argument);
    (void)module;
    if (wanted == -1 && PyErr_Occurred())
        return NULL;
    if (wanted < 1 || wanted > MAX_THREADS) {
        PyErr_Format(PyExc_ValueError, "1 to %d threads", MAX_THREADS);
        return NULL;
    }
    if (!told && pthread_atfork(NULL, NULL, orphan) != 0)
        return PyErr_NoMemory();
    told = true;
    dismiss();
    while (crew.workers < wanted - 1 && hire(crew.workers))
        crew.workers++;
    return PyLong_FromLong(crew_size());
}
