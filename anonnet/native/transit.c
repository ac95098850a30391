/* One direction of a route at a relay: see proto/transit.py. */

#include "native.h"

typedef struct {
    PyObject_HEAD
    QueueObject *queue; /* NULL: the route ends here */
    LayerObject *layer;
    PyObject *owner, *end, *recognised; /* the last may be NULL */
    uint32_t shift;
    int mark;
    Chain chain;
} InletObject;

typedef struct {
    PyObject_HEAD
    QueueObject *queue;
    PyObject *substitute, *owner, *end, *signals, *own;
    uint32_t route_id, shift;
} OutletObject;

static PyObject *get_queue(QueueObject *queue)
{
    return Py_NewRef(queue ? (PyObject *)queue : Py_None);
}

static int set_queue(QueueObject **place, PyObject *value)
{
    if (value == NULL || value == Py_None) {
        Py_CLEAR(*place);
        return 0;
    }
    if (!PyObject_TypeCheck(value, &ForwardQueueType)) {
        PyErr_SetString(PyExc_TypeError, "not a native queue");
        return -1;
    }
    Py_INCREF(value);
    Py_XSETREF(*place, (QueueObject *)value);
    return 0;
}

/* -- Inlet ------------------------------------------------------------------------------------------ */

/* With hundreds of routes each cell is of another one, whose ciphers and queue are far from the processor. But lanes are
 * filled in turn, so cells come in the same order each tick: an inlet knows which one came after it the last time, and
 * what that one needs is fetched while there is other work. */

static InletObject *latest; /* whose cell came last; NULL when that is gone */

static const InletObject *after(const InletObject *self)
{
    const Chain *next = self->chain.after;
    return next ? (const InletObject *)((const char *)next - offsetof(InletObject, chain)) : NULL;
}

/* A cell of another inlet than before has come: go ahead, a step for each of the next three. */
static void fetch_ahead(const InletObject *self)
{
    const InletObject *next = after(self), *second = next ? after(next) : NULL, *third = second ? after(second) : NULL;
    if (next != NULL && next->queue != NULL && next->layer != NULL) {
        layer_fetch_hash(next->layer);
        queue_fetch_claim(next->queue);
    }
    if (second != NULL && second->queue != NULL && second->layer != NULL) {
        fetch(second->queue, sizeof *second->queue);
        fetch(second->layer, sizeof *second->layer);
    }
    if (third != NULL)
        fetch(third, sizeof *third);
}

static int inlet_clear(PyObject *object)
{
    InletObject *self = (InletObject *)object;
    Py_CLEAR(self->queue);
    Py_CLEAR(self->layer);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->end);
    Py_CLEAR(self->recognised);
    return 0;
}

static int inlet_traverse(PyObject *object, visitproc visit, void *arg)
{
    InletObject *self = (InletObject *)object;
    Py_VISIT(self->owner);
    Py_VISIT(self->end);
    Py_VISIT(self->recognised);
    return 0;
}

static void inlet_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    chain_leave(&((InletObject *)object)->chain);
    if (latest == (InletObject *)object)
        latest = NULL;
    inlet_clear(object);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *inlet_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"layer", "owner", "end", "recognised", NULL};
    PyObject *layer, *owner, *end, *recognised_;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOO", names, &LayerType, &layer, &owner, &end, &recognised_))
        return NULL;
    InletObject *self = (InletObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->layer = (LayerObject *)Py_NewRef(layer);
    self->owner = Py_NewRef(owner), self->end = Py_NewRef(end);
    self->recognised = recognised_ == Py_None ? NULL : Py_NewRef(recognised_);
    return (PyObject *)self;
}

/* Give a cell to whoever the route ends with: the route may go meanwhile. */
static int end_here(InletObject *self, uint32_t slot, PyObject *row, long long now)
{
    if (self->end == NULL)
        return 0; /* taken apart */
    PyObject *owner = Py_NewRef(self->owner), *end = Py_NewRef(self->end);
    PyObject *result = PyObject_CallFunction(end, "OkOL", owner, (unsigned long)slot, row, now);
    Py_DECREF(end);
    Py_DECREF(owner);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

bool inlet_forwards(PyObject *object, size_t len)
{
    InletObject *self = (InletObject *)object;
    return self->queue != NULL && self->layer != NULL && len == self->queue->cell_len;
}

int inlet_forward(PyObject *object, uint32_t slot, const uint8_t *cell, size_t len)
{
    InletObject *self = (InletObject *)object;
    if (!inlet_forwards(object, len))
        return 0; /* taken apart meanwhile */
    slot -= self->shift;
    uint8_t *target = queue_claim(self->queue, slot);
    if (target == NULL)
        return 0;
    if (layer_encipher(self->layer, slot, cell + CELL_HEADER_LEN, target + CELL_HEADER_LEN, len - CELL_HEADER_LEN) < 0)
        return -1;
    if (self->recognised != NULL && recognised(target + CELL_HEADER_LEN))
        return 1; /* a substitute takes its place */
    queue_commit(self->queue, slot);
    return 0;
}

int inlet_recognised(PyObject *object, uint32_t slot, long long now)
{
    InletObject *self = (InletObject *)object;
    uint8_t *cell = self->queue ? queue_cell(self->queue, slot - self->shift) : NULL;
    if (cell == NULL)
        return 0; /* the route has changed meanwhile */
    PyObject *owner = Py_NewRef(self->owner), *function = Py_NewRef(self->recognised);
    PyObject *row = queue_row(self->queue, cell), *result = NULL;
    if (row != NULL)
        result = PyObject_CallFunction(function, "OOL", owner, row, now);
    Py_XDECREF(row);
    Py_DECREF(function);
    Py_DECREF(owner);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

int *inlet_mark(PyObject *object)
{
    return &((InletObject *)object)->mark;
}

int inlet_receive(PyObject *object, uint32_t slot, PyObject *row, const uint8_t *cell, size_t len, long long now)
{
    InletObject *self = (InletObject *)object;
    QueueObject *queue = self->queue;
    int state = 0;
    if (queue == NULL || self->layer == NULL)
        return end_here(self, slot, row, now);
    if (len != queue->cell_len) {
        PyErr_SetString(PyExc_ValueError, "a cell of another format");
        return -1;
    }
    bool other = latest != self;
    if (other && latest != NULL)
        chain_join(&latest->chain, &self->chain);
    latest = self;
    if (other)
        fetch_ahead(self);
    state = inlet_forward(object, slot, cell, len);
    const InletObject *next = other ? after(self) : NULL;
    if (next != NULL && next->layer != NULL)
        layer_fetch_keys(next->layer);
    if (state == 1) {
        Py_INCREF(self);
        state = inlet_recognised(object, slot, now);
        Py_DECREF(self);
    }
    return state;
}

static PyObject *inlet_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    unsigned long slot;
    PyObject *row;
    long long now;
    Py_buffer cell;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "kOL", &slot, &row, &now) || row_cell(row, &cell) < 0)
        return NULL;
    int state = inlet_receive(object, (uint32_t)slot, row, cell.buf, (size_t)cell.len, now);
    PyBuffer_Release(&cell);
    if (state < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *inlet_get_queue(PyObject *object, void *closure)
{
    (void)closure;
    return get_queue(((InletObject *)object)->queue);
}

static int inlet_set_queue(PyObject *object, PyObject *value, void *closure)
{
    (void)closure;
    return set_queue(&((InletObject *)object)->queue, value);
}

static PyGetSetDef inlet_getset[] = {{"queue", inlet_get_queue, inlet_set_queue, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMemberDef inlet_members[] = {
    {"shift", T_UINT, offsetof(InletObject, shift), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject InletType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Inlet",
    .tp_basicsize = sizeof(InletObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = inlet_new,
    .tp_dealloc = inlet_dealloc,
    .tp_traverse = inlet_traverse,
    .tp_clear = inlet_clear,
    .tp_call = inlet_call,
    .tp_getset = inlet_getset,
    .tp_members = inlet_members,
};

/* -- Outlet ----------------------------------------------------------------------------------------- */

static int outlet_clear(PyObject *object)
{
    OutletObject *self = (OutletObject *)object;
    Py_CLEAR(self->queue);
    Py_CLEAR(self->substitute);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->end);
    Py_CLEAR(self->signals);
    Py_CLEAR(self->own);
    return 0;
}

static int outlet_traverse(PyObject *object, visitproc visit, void *arg)
{
    OutletObject *self = (OutletObject *)object;
    Py_VISIT(self->substitute);
    Py_VISIT(self->owner);
    Py_VISIT(self->end);
    Py_VISIT(self->signals);
    Py_VISIT(self->own);
    return 0;
}

static void outlet_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    outlet_clear(object);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *outlet_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"route_id", "shift", "substitute", "owner", "end", "signals", "own", NULL};
    unsigned int route_id, shift;
    PyObject *substitute, *owner, *end, *signals, *own;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IIOOOOO", names, &route_id, &shift, &substitute, &owner, &end,
                                     &signals, &own))
        return NULL;
    OutletObject *self = (OutletObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->route_id = route_id, self->shift = shift;
    self->substitute = Py_NewRef(substitute), self->owner = Py_NewRef(owner), self->end = Py_NewRef(end);
    self->signals = Py_NewRef(signals), self->own = Py_NewRef(own);
    return (PyObject *)self;
}

static void renumber(const OutletObject *self, uint8_t *cell, uint32_t slot)
{
    put32(cell, self->route_id);
    put32(cell + 4, slot + self->shift);
}

void outlet_fetch(PyObject *take, int step)
{
    if (step == 1) {
        __builtin_prefetch(take);
        __builtin_prefetch((const char *)take + CACHE_LINE);
        return;
    }
    const QueueObject *queue = take != NULL && Py_TYPE(take) == &OutletType ? ((OutletObject *)take)->queue : NULL;
    if (queue == NULL)
        return;
    if (step > 2)
        queue_fetch(queue, step == OUTLET_STEPS - 1);
    else
        for (size_t at = 0; at < sizeof *queue; at += CACHE_LINE)
            __builtin_prefetch((const char *)queue + at);
}

int outlet_take(PyObject *object, long long tick, Due *due)
{
    OutletObject *self = (OutletObject *)object;
    QueueObject *queue = self->queue;
    uint32_t slot;
    uint8_t *cell;
    PyObject *row = NULL;
    *due = (Due){0};
    if (self->end == NULL)
        return 0; /* taken apart */
    if (queue == NULL) {
        row = PyObject_CallFunction(self->end, "OL", self->owner, tick);
        if (row == NULL)
            return -1;
        if (row == Py_None)
            Py_DECREF(row);
        else
            due->row = row;
        return 0;
    }
    Taken taken = queue_take(queue, tick, &slot, &cell);
    if (taken == TAKE_HOLD)
        return 0;
    Py_ssize_t waiting = PyObject_Size(self->signals);
    if (waiting < 0)
        return -1;
    if (waiting == 0 && taken == TAKE_CELL) {
        renumber(self, cell, slot);
        due->cell = cell;
        due->len = queue->cell_len;
        due->queue = queue;
        return 0;
    }
    Py_INCREF(self);
    row = waiting ? PyObject_CallFunction(self->own, "Ok", self->owner, (unsigned long)slot)
                  : PyObject_CallNoArgs(self->substitute);
    Py_buffer view;
    if (row != NULL && row_cell(row, &view) == 0) {
        renumber(self, view.buf, slot);
        PyBuffer_Release(&view);
        due->row = row;
    } else {
        Py_CLEAR(row);
    }
    Py_DECREF(self);
    return row ? 0 : -1;
}

static PyObject *outlet_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    long long tick;
    Due due;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "L", &tick) || outlet_take(object, tick, &due) < 0)
        return NULL;
    if (due.row != NULL)
        return due.row;
    if (due.cell == NULL)
        Py_RETURN_NONE;
    return queue_row(due.queue, (uint8_t *)due.cell);
}

static PyObject *outlet_get_queue(PyObject *object, void *closure)
{
    (void)closure;
    return get_queue(((OutletObject *)object)->queue);
}

static int outlet_set_queue(PyObject *object, PyObject *value, void *closure)
{
    (void)closure;
    return set_queue(&((OutletObject *)object)->queue, value);
}

static PyGetSetDef outlet_getset[] = {{"queue", outlet_get_queue, outlet_set_queue, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMemberDef outlet_members[] = {
    {"route_id", T_UINT, offsetof(OutletObject, route_id), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject OutletType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Outlet",
    .tp_basicsize = sizeof(OutletObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = outlet_new,
    .tp_dealloc = outlet_dealloc,
    .tp_traverse = outlet_traverse,
    .tp_clear = outlet_clear,
    .tp_call = outlet_call,
    .tp_getset = outlet_getset,
    .tp_members = outlet_members,
};
