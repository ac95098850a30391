/* A relay's forward queue: see proto/queue.py for what it must do, and why. */

#include "native.h"

#define EMPTY UINT64_MAX
#define HALF 0x80000000u
enum { MAX_CAPACITY = 1 << 20 };
static const uint32_t NOWHERE = UINT32_MAX;

/* Cells are put into memory that was used last, not around a ring: a queue holds a few of those it has room for, and
 * with hundreds of queues only those stay in the processor's caches. */

static uint8_t *cell_at(const QueueObject *self, uint32_t place)
{
    return (uint8_t *)self->block.buf + (size_t)place * self->cell_len;
}

uint8_t *queue_cell(QueueObject *self, uint32_t slot)
{
    uint32_t place = self->places[slot & self->mask];
    return place == NOWHERE ? NULL : cell_at(self, place);
}

static void give_back(QueueObject *self, uint32_t slot)
{
    uint32_t *place = &self->places[slot & self->mask];
    if (*place != NOWHERE)
        self->spare[self->spares++] = *place;
    *place = NOWHERE;
}

/* Python sees a queue's cells as rows of views, made when it first asks. */
PyObject *queue_row(QueueObject *self, const uint8_t *cell)
{
    Py_ssize_t place = (cell - (const uint8_t *)self->block.buf) / (Py_ssize_t)self->cell_len;
    if (self->rows == NULL) {
        self->rows = PyObject_CallFunction(rows_of, "OkO", self->format, (unsigned long)self->mask + 1, self->memory);
        if (self->rows == NULL)
            return NULL;
        if (!PyList_Check(self->rows) || PyList_GET_SIZE(self->rows) != (Py_ssize_t)self->mask + 1) {
            Py_CLEAR(self->rows);
            PyErr_SetString(PyExc_TypeError, "not the rows of this queue");
            return NULL;
        }
    }
    return Py_NewRef(PyList_GET_ITEM(self->rows, place));
}

static bool begins_anew(const QueueObject *self, uint32_t ahead)
{
    return self->fresh ? (long)ahead >= self->ample : ahead > self->mask && self->received <= self->tick;
}

uint8_t *queue_claim(QueueObject *self, uint32_t slot)
{
    uint32_t ahead = slot - self->next;
    if (!self->synced || (self->unsure && ahead < HALF && begins_anew(self, ahead))) {
        self->synced = true;
        self->next = slot - (uint32_t)self->prefill;
        ahead = (uint32_t)self->prefill;
    }
    if ((long)ahead < self->prefill || ahead >= HALF)
        self->late++;
    else if ((long)ahead >= self->ample)
        self->early++;
    if (ahead > self->mask || self->filled[slot & self->mask] == slot)
        return NULL;
    uint32_t *place = &self->places[slot & self->mask];
    if (*place == NOWHERE)
        *place = self->spare[--self->spares]; /* as many places as slots */
    uint8_t *cell = cell_at(self, *place);
    for (size_t at = 0; at < self->cell_len; at += CACHE_LINE)
        __builtin_prefetch(cell + at, 1);
    return cell;
}

void queue_commit(QueueObject *self, uint32_t slot)
{
    self->filled[slot & self->mask] = slot;
    self->received++;
}

static bool slip(QueueObject *self)
{
    long long late = self->late, early = self->early;
    self->late = self->early = 0;
    if ((double)early > self->majority)
        self->next += (uint32_t)self->tick;
    else if ((double)late <= self->majority)
        return false;
    self->slips++;
    return (double)late > self->majority;
}

Taken queue_take(QueueObject *self, long long tick, uint32_t *slot, uint8_t **cell)
{
    if (tick >= self->turn && self->synced) {
        self->turn = tick + self->spacing;
        if (slip(self))
            return TAKE_HOLD;
    }
    *slot = self->next;
    uint64_t *filled = &self->filled[*slot & self->mask];
    bool there = *filled == *slot;
    if (!there && !self->synced)
        return TAKE_HOLD;
    if (there)
        *cell = queue_cell(self, *slot);
    else
        self->missing++;
    *filled = EMPTY;
    give_back(self, *slot);
    self->fresh = false;
    self->next++;
    return there ? TAKE_CELL : TAKE_ABSENT;
}

/* -- for Python ------------------------------------------------------------------------------------- */

static int queue_clear(PyObject *object)
{
    QueueObject *self = (QueueObject *)object;
    Py_CLEAR(self->rows);
    Py_CLEAR(self->format);
    return 0;
}

static void queue_dealloc(PyObject *object)
{
    QueueObject *self = (QueueObject *)object;
    queue_clear(object);
    if (self->block.obj != NULL)
        PyBuffer_Release(&self->block);
    Py_CLEAR(self->memory);
    PyMem_Free(self->filled);
    PyMem_Free(self->places);
    PyMem_Free(self->spare);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fmt", "capacity", "prefill", "tick", "ample", "majority", "stall", "spacing", NULL};
    PyObject *format;
    long capacity, prefill, tick, ample, spacing;
    double majority, stall;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ollllddl", names, &format, &capacity, &prefill, &tick, &ample,
                                     &majority, &stall, &spacing))
        return NULL;
    if (capacity < 1 || capacity > MAX_CAPACITY || capacity & (capacity - 1) || prefill < 1 || prefill > capacity ||
        tick < 1 || tick > capacity || ample < 1 || ample > 4 * capacity || spacing < 1 || spacing > INT32_MAX) {
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
    self->filled = PyMem_New(uint64_t, (size_t)capacity);
    self->places = PyMem_New(uint32_t, (size_t)capacity);
    self->spare = PyMem_New(uint32_t, (size_t)capacity);
    self->memory = self->filled && self->places && self->spare
                       ? PyByteArray_FromStringAndSize(NULL, capacity * cell_len)
                       : PyErr_NoMemory();
    if (self->memory == NULL || PyObject_GetBuffer(self->memory, &self->block, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    for (long i = 0; i < capacity; i++) {
        self->filled[i] = EMPTY;
        self->places[i] = NOWHERE;
        self->spare[i] = (uint32_t)(capacity - 1 - i);
    }
    self->spares = (uint32_t)capacity;
    memset(self->block.buf, 0, (size_t)self->block.len);
    self->mask = (uint32_t)capacity - 1;
    self->prefill = prefill, self->tick = tick, self->ample = ample, self->spacing = spacing;
    self->majority = majority, self->stall = stall;
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
    const uint8_t *cell = queue_claim((QueueObject *)object, slot);
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
    if (self->synced)
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
