/* The replay window (crypto/replay.py) as a ring of bits, and the slots that came (proto/window.py). */

#include "native.h"

static inline uint64_t bit(uint64_t counter)
{
    return (uint64_t)1 << counter % 64;
}

static inline uint64_t *word(Window *window, uint64_t counter)
{
    return &window->bits[counter % WINDOW / 64];
}

bool window_accept(Window *window, uint64_t counter)
{
    if (!window->any || counter > window->greatest) {
        uint64_t ahead = counter - window->greatest;
        if (!window->any || ahead >= WINDOW)
            memset(window->bits, 0, sizeof window->bits);
        else
            for (uint64_t passed = window->greatest + 1; passed < counter; passed++)
                *word(window, passed) &= ~bit(passed);
        window->any = true;
        window->greatest = counter;
        *word(window, counter) |= bit(counter);
        return true;
    }
    if (window->greatest - counter >= WINDOW || *word(window, counter) & bit(counter))
        return false;
    *word(window, counter) |= bit(counter);
    return true;
}

PyObject *window_greatest(const Window *window)
{
    return window->any ? PyLong_FromUnsignedLongLong(window->greatest) : PyLong_FromLong(-1);
}

static PyObject *replay_accept(PyObject *object, PyObject *argument)
{
    unsigned long long counter = PyLong_AsUnsignedLongLong(argument);
    if (counter == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(window_accept(&((ReplayWindowObject *)object)->window, counter));
}

static PyObject *replay_greatest(PyObject *object, void *closure)
{
    (void)closure;
    return window_greatest(&((ReplayWindowObject *)object)->window);
}

static PyMethodDef replay_methods[] = {{"accept", replay_accept, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyGetSetDef replay_members[] = {{"greatest", replay_greatest, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

PyTypeObject ReplayWindowType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.ReplayWindow",
    .tp_basicsize = sizeof(ReplayWindowObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_methods = replay_methods,
    .tp_getset = replay_members,
};

typedef struct {
    PyObject_HEAD
    Window window;
    uint64_t highest, start; /* slot numbers, unwrapped; never below 2^31 */
    long long received;
} SlotWindowObject;

static PyObject *slots_accept(PyObject *object, PyObject *argument)
{
    SlotWindowObject *self = (SlotWindowObject *)object;
    unsigned long value = PyLong_AsUnsignedLong(argument);
    if (value == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    uint32_t slot = (uint32_t)value;
    if (!self->window.any)
        self->highest = self->start = ((uint64_t)1 << 32) + slot;
    uint64_t extended = self->highest + (uint64_t)(int64_t)(int32_t)(slot - (uint32_t)self->highest);
    if (!window_accept(&self->window, extended))
        Py_RETURN_FALSE;
    if (extended > self->highest)
        self->highest = extended;
    self->received++;
    Py_RETURN_TRUE;
}

static PyObject *slots_missing(PyObject *object, void *closure)
{
    SlotWindowObject *self = (SlotWindowObject *)object;
    (void)closure;
    if (!self->window.any)
        return PyLong_FromLong(0);
    long long missing = (long long)(self->highest - self->start + 1) - self->received;
    return PyLong_FromLongLong(missing > 0 ? missing : 0);
}

static PyMethodDef slots_methods[] = {{"accept", slots_accept, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyGetSetDef slots_getset[] = {{"missing", slots_missing, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMemberDef slots_members[] = {
    {"received", T_LONGLONG, offsetof(SlotWindowObject, received), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject SlotWindowType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "anonnet._native.SlotWindow",
    .tp_basicsize = sizeof(SlotWindowObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_methods = slots_methods,
    .tp_getset = slots_getset,
    .tp_members = slots_members,
};
