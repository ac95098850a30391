/* Who gets the slots of a link's tick: see proto/slots.py. */

#include "native.h"

typedef struct {
    PyObject_HEAD
    PyObject *route, *take, *skip;
    long long per_tick, credit; /* in RATE_UNIT-ths of a cell */
    Chain chain;
} LaneObject;

static LaneObject *latest; /* the lane filled last; NULL when that is gone */

static int lane_clear(PyObject *object)
{
    LaneObject *self = (LaneObject *)object;
    Py_CLEAR(self->route);
    Py_CLEAR(self->take);
    Py_CLEAR(self->skip);
    return 0;
}

static int lane_traverse(PyObject *object, visitproc visit, void *arg)
{
    LaneObject *self = (LaneObject *)object;
    Py_VISIT(self->route);
    Py_VISIT(self->take);
    Py_VISIT(self->skip);
    return 0;
}

static void lane_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    chain_leave(&((LaneObject *)object)->chain);
    if (latest == (LaneObject *)object)
        latest = NULL;
    lane_clear(object);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *lane_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"route", "rate", "tick_ns", "take", "skip", NULL};
    PyObject *route, *take, *skip;
    long long rate, tick_ns, per_tick;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OLLOO", names, &route, &rate, &tick_ns, &take, &skip))
        return NULL;
    if (rate < 0 || tick_ns < 0 || __builtin_mul_overflow(rate, tick_ns, &per_tick) || per_tick > INT64_MAX / 4) {
        PyErr_SetString(PyExc_ValueError, "no such rate");
        return NULL;
    }
    LaneObject *self = (LaneObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->route = Py_NewRef(route), self->take = Py_NewRef(take), self->skip = Py_NewRef(skip);
    self->per_tick = per_tick;
    return (PyObject *)self;
}

static PyMemberDef lane_members[] = {
    {"route", T_OBJECT_EX, offsetof(LaneObject, route), READONLY, NULL},
    {"take", T_OBJECT_EX, offsetof(LaneObject, take), 0, NULL},
    {"skip", T_OBJECT_EX, offsetof(LaneObject, skip), 0, NULL},
    {"per_tick", T_LONGLONG, offsetof(LaneObject, per_tick), READONLY, NULL},
    {"credit", T_LONGLONG, offsetof(LaneObject, credit), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject LaneType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Lane",
    .tp_basicsize = sizeof(LaneObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = lane_new,
    .tp_dealloc = lane_dealloc,
    .tp_traverse = lane_traverse,
    .tp_clear = lane_clear,
    .tp_members = lane_members,
};

/* One tick of a link, and how far its filling has come. */
typedef struct {
    AeadObject *sealer;
    bool later;  /* by the whole crew: see batch.c */
    uint8_t *at; /* place of the next datagram */
    size_t datagram_len, cell_len;
    Py_ssize_t left; /* places */
    uint32_t start;
    uint64_t counter;
} Tick;

/* `keeper` has the cell for as long as nothing comes in; NULL: it is soon overwritten. */
static int seal(Tick *tick, const uint8_t *cell, size_t len, PyObject *keeper)
{
    if (len != tick->cell_len) {
        PyErr_SetString(PyExc_ValueError, "a cell of another format");
        return -1;
    }
    Place place = {tick->sealer, tick->at, cell, len, tick->counter, tick->start};
    if ((tick->later ? batch_add(place, keeper) : place_seal(&place, 0)) < 0)
        return -1;
    tick->at += tick->datagram_len;
    tick->counter++;
    tick->left--;
    return 0;
}

static int seal_object(Tick *tick, PyObject *cell)
{
    Py_buffer view;
    if (PyObject_GetBuffer(cell, &view, PyBUF_SIMPLE) < 0)
        return -1;
    int state = seal(tick, view.buf, (size_t)view.len, NULL);
    PyBuffer_Release(&view);
    return state;
}

static int seal_row(Tick *tick, PyObject *row)
{
    Py_buffer view;
    if (row_cell(row, &view) < 0)
        return -1;
    int state = seal(tick, view.buf, (size_t)view.len, NULL);
    PyBuffer_Release(&view);
    return state;
}

/* What a lane has earned; 1 when it leaves the rest to others. */
static int lane_give(Tick *tick, PyObject *take, long long number)
{
    Due due = {0};
    if (Py_TYPE(take) == &OutletType) {
        if (outlet_take(take, number, &due) < 0)
            return -1;
    } else {
        due.row = PyObject_CallFunction(take, "L", number);
        if (due.row == NULL)
            return -1;
        if (due.row == Py_None)
            Py_CLEAR(due.row);
    }
    if (due.cell != NULL)
        return seal(tick, due.cell, due.len, (PyObject *)due.queue);
    if (due.row == NULL)
        return 1;
    int state = seal_row(tick, due.row);
    Py_DECREF(due.row);
    return state;
}

static int lane_fill(Tick *tick, LaneObject *lane, long long number)
{
    long long credit = lane->credit + lane->per_tick, due = credit / RATE_UNIT;
    if (due < 0)
        due = 0;
    if (due > tick->left)
        due = tick->left;
    credit -= due * RATE_UNIT;
    lane->credit = credit < MOST_OWED + lane->per_tick ? credit : MOST_OWED + lane->per_tick;
    int state = 0;
    PyObject *take = Py_NewRef(lane->take);
    while (due-- > 0 && state == 0)
        state = lane_give(tick, take, number);
    Py_DECREF(take);
    return state < 0 ? -1 : 0;
}

/* With hundreds of routes each cell is far away, behind three pointers: go ahead, over all links, a step for each lane
 * that is filled. */
static void fetch_ahead(LaneObject *lane)
{
    if (latest != NULL && latest != lane)
        chain_join(&latest->chain, &lane->chain);
    latest = lane;
    const Chain *next = lane->chain.after;
    for (int step = OUTLET_STEPS - 1; step >= 0 && next != NULL; step--, next = next->after) {
        const LaneObject *far = (const LaneObject *)((const char *)next - offsetof(LaneObject, chain));
        if (step == 0)
            fetch(far, sizeof *far);
        else
            outlet_fetch(far->take, step);
    }
}

enum { LINK_STEPS = 3 }; /* of fetch_link */

typedef struct {
    PyObject_HEAD
    PyObject *lanes, *control, *control_cell, *null;
    AeadObject *sealer; /* NULL: nothing to seal with */
    Py_buffer memory;   /* the outbox's */
    Py_ssize_t datagram_len, position;
    uint64_t counter;
    uint32_t start;
} FillerObject;

static int filler_clear(PyObject *object)
{
    FillerObject *self = (FillerObject *)object;
    Py_CLEAR(self->lanes);
    Py_CLEAR(self->control);
    Py_CLEAR(self->control_cell);
    Py_CLEAR(self->null);
    Py_CLEAR(self->sealer);
    return 0;
}

static int filler_traverse(PyObject *object, visitproc visit, void *arg)
{
    FillerObject *self = (FillerObject *)object;
    Py_VISIT(self->lanes);
    Py_VISIT(self->control);
    Py_VISIT(self->control_cell);
    Py_VISIT(self->null);
    return 0;
}

static void filler_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    filler_clear(object);
    PyBuffer_Release(&((FillerObject *)object)->memory);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *filler_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"outbox", "lanes", "control", "control_cell", "null", NULL};
    PyObject *outbox, *lanes, *control, *control_cell, *null;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!OOO", names, &outbox, &PyList_Type, &lanes, &control,
                                     &control_cell, &null))
        return NULL;
    PyObject *length = PyObject_GetAttrString(outbox, "length");
    Py_ssize_t datagram_len = length ? PyLong_AsSsize_t(length) : -1;
    Py_XDECREF(length);
    if (PyErr_Occurred())
        return NULL;
    FillerObject *self = (FillerObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lanes = Py_NewRef(lanes), self->control = Py_NewRef(control);
    self->control_cell = Py_NewRef(control_cell), self->null = Py_NewRef(null);
    self->datagram_len = datagram_len;
    if (object_memory(outbox, &self->memory) < 0) {
        Py_CLEAR(self);
    } else if (datagram_len <= HEADER_LEN + TAG_LEN || self->memory.len % datagram_len != 0) {
        PyErr_SetString(PyExc_ValueError, "no such outbox");
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyObject *filler_use(PyObject *object, PyObject *args)
{
    FillerObject *self = (FillerObject *)object;
    PyObject *sealer, *number;
    if (!PyArg_ParseTuple(args, "O!O!", &SealerType, &sealer, &PyLong_Type, &number))
        return NULL;
    unsigned long start = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred() || start > UINT32_MAX) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "no header begins so");
        return NULL;
    }
    Py_XSETREF(self->sealer, (AeadObject *)Py_NewRef(sealer));
    self->start = (uint32_t)start;
    self->counter = 0;
    Py_RETURN_NONE;
}

static PyObject *filler_stop(PyObject *object, PyObject *unused)
{
    (void)unused;
    Py_CLEAR(((FillerObject *)object)->sealer);
    Py_RETURN_NONE;
}

static PyMethodDef filler_methods[] = {
    {"use", filler_use, METH_VARARGS, NULL},
    {"stop", filler_stop, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef filler_members[] = {
    {"position", T_PYSSIZET, offsetof(FillerObject, position), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject FillerType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.Filler",
    .tp_basicsize = sizeof(FillerObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = filler_new,
    .tp_dealloc = filler_dealloc,
    .tp_traverse = filler_traverse,
    .tp_clear = filler_clear,
    .tp_methods = filler_methods,
    .tp_members = filler_members,
};

static int fill_lanes(Tick *tick, PyObject *lanes, long long number)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(lanes); i++) {
        PyObject *lane = PyList_GET_ITEM(lanes, i);
        if (Py_TYPE(lane) != &LaneType || ((LaneObject *)lane)->take == NULL) {
            PyErr_SetString(PyExc_TypeError, "not a native lane");
            return -1;
        }
        fetch_ahead((LaneObject *)lane);
        Py_INCREF(lane);
        int state = lane_fill(tick, (LaneObject *)lane, number);
        Py_DECREF(lane);
        if (state < 0)
            return -1;
    }
    return 0;
}

static int fill_rest(Tick *tick, const FillerObject *filler)
{
    while (tick->left > 0) {
        Py_ssize_t waiting = PyObject_Size(filler->control);
        if (waiting < 0)
            return -1;
        PyObject *cell = waiting ? PyObject_CallNoArgs(filler->control_cell) : Py_NewRef(filler->null);
        if (cell == NULL)
            return -1;
        int state = seal_object(tick, cell);
        Py_DECREF(cell);
        if (state < 0)
            return -1;
    }
    return 0;
}

static int filler_fill(FillerObject *self, long long number)
{
    Py_ssize_t places = self->datagram_len ? self->memory.len / self->datagram_len : 0, position = self->position;
    if (self->sealer == NULL || self->lanes == NULL || position < 0 || position > places) {
        PyErr_SetString(PyExc_ValueError, "no key to seal with, or no such place");
        return -1;
    }
    Tick tick = {
        .sealer = self->sealer,
        .later = crew_size() > 1 && self->sealer->threads >= crew_size(),
        .at = (uint8_t *)self->memory.buf + position * self->datagram_len,
        .datagram_len = (size_t)self->datagram_len,
        .cell_len = (size_t)self->datagram_len - HEADER_LEN - TAG_LEN,
        .left = places - position,
        .start = self->start,
        .counter = self->counter,
    };
    self->counter += (uint64_t)tick.left; /* before they are used: none is used twice, whatever happens */
    self->position = 0;
    if (tick.later && (batch_hold((PyObject *)self) < 0 || batch_hold((PyObject *)tick.sealer) < 0))
        return -1;
    Py_INCREF(tick.sealer);
    int state = fill_lanes(&tick, self->lanes, number) < 0 || fill_rest(&tick, self) < 0 ? -1 : 0;
    Py_DECREF(tick.sealer);
    return state;
}

/* The same for links: what their lanes are in, and the keys. */
static void fetch_link(PyObject *fillers, Py_ssize_t at)
{
    for (int step = 0; step < LINK_STEPS; step++) {
        Py_ssize_t i = at + LINK_STEPS - step;
        if (i >= PyList_GET_SIZE(fillers))
            continue;
        const FillerObject *filler = (const FillerObject *)PyList_GET_ITEM(fillers, i);
        if (step == 0) {
            fetch(filler, sizeof *filler);
        } else if (Py_TYPE(filler) != &FillerType || filler->lanes == NULL || filler->sealer == NULL) {
            continue;
        } else if (step == 1) {
            fetch(filler->lanes, sizeof(PyListObject));
            fetch(filler->sealer, sizeof *filler->sealer);
        } else {
            __builtin_prefetch(((PyListObject *)filler->lanes)->ob_item);
            aead_fetch(filler->sealer);
        }
    }
}

/* fill(fillers, tick) */
PyObject *outbox_fill(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 2 || !PyList_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "fill(fillers, tick)");
        return NULL;
    }
    long long number = PyLong_AsLongLong(args[1]);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    int state = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[0]) && state == 0; i++) {
        PyObject *filler = PyList_GET_ITEM(args[0], i);
        fetch_link(args[0], i);
        if (Py_TYPE(filler) != &FillerType) {
            PyErr_SetString(PyExc_TypeError, "not a native filler");
            state = -1;
        } else {
            Py_INCREF(filler);
            state = filler_fill((FillerObject *)filler, number);
            Py_DECREF(filler);
        }
    }
    if (state < 0) {
        batch_drop();
        return NULL;
    }
    return batch_seal() < 0 ? NULL : Py_NewRef(Py_None);
}
