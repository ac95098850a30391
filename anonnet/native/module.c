/* anonnet._native: what the files beside this one make. */

#include "native.h"

#ifndef ANONNET_SOURCES
#error "ANONNET_SOURCES: setup.py says which sources these are"
#endif

PyObject *invalid_tag, *rows_of;
PyObject *name_offset, *name_lengths, *name_names;
static PyObject *name_cell, *name_memory;

static int memory_of(PyObject *memory, Py_buffer *view)
{
    if (memory == NULL)
        return -1;
    int state = PyObject_GetBuffer(memory, view, PyBUF_WRITABLE);
    Py_DECREF(memory);
    return state;
}

int object_memory(PyObject *object, Py_buffer *view)
{
    return memory_of(PyObject_GetAttr(object, name_memory), view);
}

int row_cell(PyObject *row, Py_buffer *view)
{
    if (memory_of(PyObject_GetAttr(row, name_cell), view) < 0)
        return -1;
    if (view->len <= CELL_HEADER_LEN + RECOGNISED_LEN || view->len > STRIDE) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_ValueError, "no format has such cells");
        return -1;
    }
    return 0;
}

static PyObject *import(const char *module, const char *name)
{
    PyObject *imported = PyImport_ImportModule(module), *found = NULL;
    if (imported != NULL)
        found = PyObject_GetAttrString(imported, name);
    Py_XDECREF(imported);
    return found;
}

static PyMethodDef functions[] = {
    {"fill", (PyCFunction)(void (*)(void))outbox_fill, METH_FASTCALL, NULL},
    {"threads", crew_threads, METH_O, NULL},
    {"join", (PyCFunction)(void (*)(void))train_join, METH_FASTCALL, NULL},
    {"complete", (PyCFunction)(void (*)(void))train_complete, METH_FASTCALL, NULL},
    {"rewrite", (PyCFunction)(void (*)(void))train_rewrite, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "anonnet._native",
    .m_doc = "The hot path of the data plane: anonnet/native.",
    .m_size = -1,
    .m_methods = functions,
};

static PyTypeObject *const types[] = {
    &SealerType, &OpenerType, &LayerType, &OnionType, &ReplayWindowType, &SlotWindowType, &ForwardQueueType,
    &InletType, &OutletType, &LaneType, &FillerType, &ReceiveSessionType, &IntakeType, &SegmenterType, &UnpackerType,
};

static const struct {
    PyObject **name;
    const char *text;
} names[] = {
    {&name_cell, "cell"},       {&name_memory, "memory"}, {&name_offset, "offset"},
    {&name_lengths, "lengths"}, {&name_names, "names"},
};

static int add_all(PyObject *module)
{
    if (aead_init() < 0 || layer_init() < 0)
        return -1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL)
            return -1;
    invalid_tag = import("cryptography.exceptions", "InvalidTag");
    rows_of = import("anonnet.wire.cell", "rows");
    if (invalid_tag == NULL || rows_of == NULL)
        return -1;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (PyModule_AddType(module, types[i]) < 0)
            return -1;
    PyObject *constants = Py_BuildValue("{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:L,s:L,s:i,s:i}", "HEADER_LEN", HEADER_LEN, "TAG_LEN",
                                        TAG_LEN, "CELL_HEADER_LEN", CELL_HEADER_LEN, "RECOGNISED_LEN", RECOGNISED_LEN,
                                        "ROUTE_NULL", ROUTE_NULL, "ROUTE_CONTROL", ROUTE_CONTROL, "STRIDE", STRIDE,
                                        "NAME_LEN", NAME_LEN, "WINDOW", WINDOW, "RATE_UNIT", RATE_UNIT, "MOST_OWED",
                                        MOST_OWED, "CAUTION", CAUTION, "MOST_CAUTION", MOST_CAUTION);
    if (constants == NULL || PyModule_AddObject(module, "CONSTANTS", constants) < 0) {
        Py_XDECREF(constants);
        return -1;
    }
    return PyModule_AddStringConstant(module, "SOURCES", ANONNET_SOURCES);
}

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && add_all(module) < 0)
        Py_CLEAR(module);
    return module;
}
