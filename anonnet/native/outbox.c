/* Who gets the slots of a link's tick: see proto/slots.py. */

#include "native.h"

typedef struct {
    PyObject_HEAD
    PyObject *route, *take, *skip;
    long long per_tick, credit; /* in RATE_UNIT-ths of a cell */
} LaneObject;

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

/* With hundreds of routes each cell is far away, behind three pointers: go ahead, a step for each lane that is filled. */
static void fetch_ahead(PyObject *lanes, Py_ssize_t at)
{
    for (int step = 0; step < OUTLET_STEPS; step++) {
        Py_ssize_t i = at + OUTLET_STEPS - step;
        if (i >= PyList_GET_SIZE(lanes))
            continue;
        PyObject *lane = PyList_GET_ITEM(lanes, i);
        if (step == 0)
            __builtin_prefetch(lane), __builtin_prefetch((char *)lane + CACHE_LINE);
        else if (Py_TYPE(lane) == &LaneType)
            outlet_fetch(((LaneObject *)lane)->take, step);
    }
}

static int fill(Tick *tick, PyObject *lanes, long long number, PyObject *control, PyObject *control_cell, PyObject *null)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(lanes); i++) {
        PyObject *lane = PyList_GET_ITEM(lanes, i);
        fetch_ahead(lanes, i);
        if (Py_TYPE(lane) != &LaneType || ((LaneObject *)lane)->take == NULL) {
            PyErr_SetString(PyExc_TypeError, "not a native lane");
            return -1;
        }
        Py_INCREF(lane);
        int state = lane_fill(tick, (LaneObject *)lane, number);
        Py_DECREF(lane);
        if (state < 0)
            return -1;
    }
    while (tick->left > 0) {
        Py_ssize_t waiting = PyObject_Size(control);
        if (waiting < 0)
            return -1;
        PyObject *cell = waiting ? PyObject_CallNoArgs(control_cell) : Py_NewRef(null);
        if (cell == NULL)
            return -1;
        int state = seal_object(tick, cell);
        Py_DECREF(cell);
        if (state < 0)
            return -1;
    }
    return 0;
}

/* fill(outbox, position, lanes, tick, seal, start, counter, control, control_cell, null) */
PyObject *outbox_fill(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 10 || !PyList_Check(args[2]) || Py_TYPE(args[4]) != &SealerType) {
        PyErr_SetString(PyExc_TypeError, "fill: wrong arguments");
        return NULL;
    }
    Tick tick = {.sealer = (AeadObject *)args[4]};
    Py_ssize_t position = PyLong_AsSsize_t(args[1]);
    long long number = PyLong_AsLongLong(args[3]);
    unsigned long start = PyLong_AsUnsignedLong(args[5]);
    tick.counter = PyLong_AsUnsignedLongLong(args[6]);
    PyObject *length = PyErr_Occurred() ? NULL : PyObject_GetAttrString(args[0], "length");
    if (length == NULL)
        return NULL;
    Py_ssize_t datagram_len = PyLong_AsSsize_t(length);
    Py_DECREF(length);
    Py_buffer memory;
    if (PyErr_Occurred() || object_buffer(args[0], "memory", &memory) < 0)
        return NULL;
    PyObject *result = NULL;
    if (datagram_len <= HEADER_LEN + TAG_LEN || memory.len % datagram_len != 0 || position < 0 ||
        position > memory.len / datagram_len || start > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "fill: no such outbox");
    } else {
        tick.datagram_len = (size_t)datagram_len;
        tick.cell_len = tick.datagram_len - HEADER_LEN - TAG_LEN;
        tick.at = (uint8_t *)memory.buf + position * datagram_len;
        tick.left = memory.len / datagram_len - position;
        tick.start = (uint32_t)start;
        tick.later = crew_size() > 1 && tick.sealer->threads >= crew_size();
        PyObject *lanes = Py_NewRef(args[2]);
        if ((!tick.later || batch_keep(&memory, tick.sealer) == 0) &&
            fill(&tick, lanes, number, args[7], args[8], args[9]) == 0)
            result = Py_NewRef(Py_None);
        else
            batch_drop();
        Py_DECREF(lanes);
    }
    PyBuffer_Release(&memory);
    return result;
}
