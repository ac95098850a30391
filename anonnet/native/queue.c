/* A relay's forward queue: see proto/queue.py for what it must do, and why. */

#include "native.h"
#include <pthread.h>
#include <stdlib.h>

#define EMPTY UINT64_MAX
#define HALF 0x80000000u
enum { MAX_CAPACITY = 1 << 20 };

/* Cells are put into memory that was used last, not around a ring: a queue holds a few of those it has room for, and
 * with hundreds of queues only those are worth memory and stay in the processor's caches. What a queue leaves behind
 * goes to the next one: it is never freed, so that a row which Python still has shows a cell, if not its own. */

enum { SLAB = 16, LENGTHS = 4 }; /* cells allocated at once; formats that there may be */

static struct {
    size_t len;
    uint8_t *free; /* each begins with the next one's address */
} left[LENGTHS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* a crew claims without the GIL */

static void leave(size_t len, uint8_t *cell)
{
    for (int i = 0; i < LENGTHS; i++)
        if (left[i].len == len || left[i].len == 0) {
            left[i].len = len;
            memcpy(cell, &left[i].free, sizeof left[i].free);
            left[i].free = cell;
            return;
        }
}

static uint8_t *find(size_t len)
{
    for (int i = 0; i < LENGTHS; i++)
        if (left[i].len == len && left[i].free != NULL) {
            uint8_t *cell = left[i].free;
            memcpy(&left[i].free, cell, sizeof left[i].free);
            return cell;
        }
    return NULL;
}

static uint8_t *cell_new(size_t len)
{
    pthread_mutex_lock(&lock);
    uint8_t *cell = find(len);
    if (cell == NULL) {
        size_t each = (len + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
        uint8_t *slab = aligned_alloc(CACHE_LINE, SLAB * each);
        for (size_t i = 0; slab != NULL && i < SLAB; i++)
            leave(len, memset(slab + i * each, 0, each));
        cell = find(len);
    }
    pthread_mutex_unlock(&lock);
    return cell;
}

uint8_t *queue_cell(QueueObject *self, uint32_t slot)
{
    return self->waiting[slot & self->mask].cell;
}

static void give_back(QueueObject *self, uint32_t slot)
{
    uint8_t **cell = &self->waiting[slot & self->mask].cell;
    if (*cell == NULL)
        return;
    if (self->spare != NULL)
        self->older[self->spares++] = self->spare;
    self->spare = *cell;
    *cell = NULL;
}

static uint8_t *take_spare(QueueObject *self)
{
    uint8_t *cell = self->spare;
    self->spare = NULL;
    if (cell == NULL && self->spares > 0)
        cell = self->older[--self->spares];
    return cell ? cell : cell_new(self->cell_len);
}

/* Python sees a cell as a row of views, made when it asks: it seldom does. */
PyObject *queue_row(QueueObject *self, uint8_t *cell)
{
    PyObject *memory = PyMemoryView_FromMemory((char *)cell, (Py_ssize_t)self->cell_len, PyBUF_WRITE);
    PyObject *rows = memory ? PyObject_CallFunction(rows_of, "OiO", self->format, 1, memory) : NULL, *row = NULL;
    Py_XDECREF(memory);
    if (rows != NULL && PyList_Check(rows) && PyList_GET_SIZE(rows) == 1)
        row = Py_NewRef(PyList_GET_ITEM(rows, 0));
    else if (rows != NULL)
        PyErr_SetString(PyExc_TypeError, "not the rows of this queue");
    Py_XDECREF(rows);
    return row;
}

static bool begins_anew(const QueueObject *self, uint32_t ahead)
{
    return self->fresh ? (long)ahead >= self->anew : ahead > self->mask && self->received <= self->tick;
}

static void fetch_cell(const uint8_t *cell, size_t len)
{
    for (size_t at = 0; cell != NULL && at < len; at += CACHE_LINE)
        __builtin_prefetch(cell + at, 1);
}

/* What is due next: where it is, or the cell. */
void queue_fetch(const QueueObject *self, bool cell)
{
    if (cell)
        fetch_cell(queue_cell((QueueObject *)self, self->next), self->cell_len);
    else
        __builtin_prefetch(&self->waiting[self->next & self->mask], 1);
}

/* What a claim needs, but for the cell, if it is for the slot that is about to come. */
void queue_fetch_claim(const QueueObject *self)
{
    __builtin_prefetch(&self->waiting[(self->next + (uint32_t)self->prefill) & self->mask], 1);
}

uint8_t *queue_claim(QueueObject *self, uint32_t slot)
{
    uint32_t ahead = slot - self->next;
    if (!self->synced || (self->unsure && ahead < HALF && begins_anew(self, ahead))) {
        self->synced = self->fresh = true;
        self->next = slot - (uint32_t)self->prefill;
        ahead = (uint32_t)self->prefill;
    }
    if ((long)ahead < self->near || ahead >= HALF)
        self->late++;
    else if ((long)ahead >= self->good)
        self->late -= 1 + ((long)ahead > self->good);
    if ((long)ahead >= self->ample && ahead < HALF)
        self->early++;
    Waiting *waiting = &self->waiting[slot & self->mask];
    if (ahead > self->mask || waiting->filled == slot)
        return NULL;
    if (waiting->cell == NULL)
        waiting->cell = take_spare(self);
    fetch_cell(waiting->cell, self->cell_len);
    return waiting->cell;
}

void queue_commit(QueueObject *self, uint32_t slot)
{
    self->waiting[slot & self->mask].filled = slot;
    self->received++;
}

static bool slip(QueueObject *self)
{
    long long late = self->late, early = self->early;
    self->late = self->early = 0;
    self->calm = (double)-late > self->plenty ? self->calm + 1 : 0;
    bool skip = (double)early > self->majority || self->calm >= self->caution;
    if (skip) {
        self->calm = 0;
        self->next += (uint32_t)self->tick;
    } else if ((double)late > self->surplus)
        self->caution = self->caution < MOST_CAUTION / CAUTION ? CAUTION * self->caution : MOST_CAUTION;
    else
        return false;
    self->slips++;
    return !skip;
}

Taken queue_take(QueueObject *self, long long tick, uint32_t *slot, uint8_t **cell)
{
    if (tick >= self->turn && self->synced) {
        self->turn = tick + self->spacing;
        if (slip(self))
            return TAKE_HOLD;
    }
    *slot = self->next;
    Waiting *waiting = &self->waiting[*slot & self->mask];
    bool there = waiting->filled == *slot;
    if (!there && !self->synced)
        return TAKE_HOLD;
    if (there)
        *cell = waiting->cell;
    else
        self->missing++;
    waiting->filled = EMPTY;
    give_back(self, *slot);
    self->fresh = false;
    self->next++;
    return there ? TAKE_CELL : TAKE_ABSENT;
}

/* -- for Python ------------------------------------------------------------------------------------- */

static int queue_clear(PyObject *object)
{
    Py_CLEAR(((QueueObject *)object)->format);
    return 0;
}

static void queue_dealloc(PyObject *object)
{
    QueueObject *self = (QueueObject *)object;
    queue_clear(object);
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; self->waiting != NULL && i <= self->mask; i++)
        if (self->waiting[i].cell != NULL)
            leave(self->cell_len, self->waiting[i].cell);
    if (self->spare != NULL)
        leave(self->cell_len, self->spare);
    while (self->spares > 0)
        leave(self->cell_len, self->older[--self->spares]);
    pthread_mutex_unlock(&lock);
    PyMem_Free(self->waiting);
    PyMem_Free(self->older);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fmt", "capacity", "prefill", "tick", "ample", "majority", "stall", "near", "good",
                            "surplus", "plenty", "anew", "spacing", NULL};
    PyObject *format;
    long capacity, prefill, tick, ample, near, good, anew, spacing;
    double majority, stall, surplus, plenty;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ollllddllddll", names, &format, &capacity, &prefill, &tick, &ample,
                                     &majority, &stall, &near, &good, &surplus, &plenty, &anew, &spacing))
        return NULL;
    if (capacity < 1 || capacity > MAX_CAPACITY || capacity & (capacity - 1) || prefill < 1 || prefill > capacity ||
        tick < 1 || tick > capacity || ample < 1 || ample > 4 * capacity || near < 1 || near > prefill ||
        good < near || anew < prefill || anew > 4 * capacity || spacing < 1 || spacing > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "no such queue");
        return NULL;
    }
    PyObject *number = PyObject_GetAttrString(format, "cell_len");
    if (number == NULL)
        return NULL;
    Py_ssize_t cell_len = PyLong_AsSsize_t(number);
    Py_DECREF(number);
    if (cell_len == -1 && PyErr_Occurred())
        return NULL;
    if (cell_len <= CELL_HEADER_LEN + RECOGNISED_LEN || cell_len > STRIDE) {
        PyErr_SetString(PyExc_ValueError, "no such format");
        return NULL;
    }
    QueueObject *self = (QueueObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->cell_len = (size_t)cell_len;
    self->format = Py_NewRef(format);
    self->mask = (uint32_t)capacity - 1;
    self->waiting = PyMem_New(Waiting, (size_t)capacity);
    self->older = PyMem_New(uint8_t *, (size_t)capacity);
    for (long i = 0; self->waiting != NULL && i < capacity; i++)
        self->waiting[i] = (Waiting){EMPTY, NULL};
    if (self->waiting == NULL || self->older == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->prefill = prefill, self->tick = tick, self->ample = ample, self->spacing = spacing;
    self->majority = majority, self->stall = stall, self->near = near, self->good = good, self->anew = anew;
    self->surplus = surplus, self->plenty = plenty, self->caution = 1;
    self->fresh = self->unsure = true;
    return (PyObject *)self;
}

/* A slot number, or as many slots as somebody says: taken modulo 2^32. */
static int any_slot(PyObject *argument, uint32_t *slot)
{
    unsigned long value = PyLong_AsUnsignedLongMask(argument);
    if (value == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    *slot = (uint32_t)value;
    return 0;
}

static PyObject *queue_py_start(PyObject *object, PyObject *argument)
{
    QueueObject *self = (QueueObject *)object;
    if (any_slot(argument, &self->next) < 0)
        return NULL;
    self->synced = true;
    self->unsure = self->fresh = false;
    Py_RETURN_NONE;
}

static PyObject *queue_py_claim(PyObject *object, PyObject *argument)
{
    uint32_t slot;
    if (any_slot(argument, &slot) < 0)
        return NULL;
    uint8_t *cell = queue_claim((QueueObject *)object, slot);
    if (cell == NULL)
        Py_RETURN_NONE;
    return queue_row((QueueObject *)object, cell);
}

static PyObject *queue_py_commit(PyObject *object, PyObject *argument)
{
    uint32_t slot;
    if (any_slot(argument, &slot) < 0)
        return NULL;
    queue_commit((QueueObject *)object, slot);
    Py_RETURN_NONE;
}

static PyObject *queue_py_take(PyObject *object, PyObject *argument)
{
    QueueObject *self = (QueueObject *)object;
    uint32_t slot;
    long long tick = PyLong_AsLongLong(argument);
    if (tick == -1 && PyErr_Occurred())
        return NULL;
    uint8_t *cell;
    Taken taken = queue_take(self, tick, &slot, &cell);
    if (taken == TAKE_HOLD)
        Py_RETURN_NONE;
    PyObject *row = taken == TAKE_CELL ? queue_row(self, cell) : Py_NewRef(Py_None);
    return row ? Py_BuildValue("kN", (unsigned long)slot, row) : NULL;
}

static PyObject *queue_py_skip(PyObject *object, PyObject *argument)
{
    QueueObject *self = (QueueObject *)object;
    uint32_t slots;
    double count = PyLong_AsDouble(argument);
    if ((count == -1.0 && PyErr_Occurred()) || any_slot(argument, &slots) < 0)
        return NULL;
    if (self->synced && !self->fresh) // else what came says, or will say, where to begin
        self->next += slots;
    if (count > self->stall)
        self->late = self->early = 0;
    Py_RETURN_NONE;
}

static PyMethodDef queue_methods[] = {
    {"start", queue_py_start, METH_O, NULL}, {"claim", queue_py_claim, METH_O, NULL},
    {"commit", queue_py_commit, METH_O, NULL}, {"take", queue_py_take, METH_O, NULL},
    {"skip", queue_py_skip, METH_O, NULL}, {NULL, NULL, 0, NULL},
};

static PyMemberDef queue_members[] = {
    {"next", T_UINT, offsetof(QueueObject, next), READONLY, NULL},
    {"prefill", T_LONG, offsetof(QueueObject, prefill), READONLY, NULL},
    {"near", T_LONG, offsetof(QueueObject, near), READONLY, NULL},
    {"received", T_LONGLONG, offsetof(QueueObject, received), READONLY, NULL},
    {"missing", T_LONGLONG, offsetof(QueueObject, missing), READONLY, NULL},
    {"slips", T_LONGLONG, offsetof(QueueObject, slips), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject ForwardQueueType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.ForwardQueue",
    .tp_basicsize = sizeof(QueueObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = queue_new,
    .tp_dealloc = queue_dealloc,
    .tp_methods = queue_methods,
    .tp_members = queue_members,
};
