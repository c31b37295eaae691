// A backend of loadable kind (GGML_BACKEND_DL) whose GPUs have no more than a name and memory figures: what is put on
// them is in the machine's memory, and computed by the CPU. FAKE_GPUS="free,total;free,total", in MiB, says how many.
//
// The structures are those of ggml-backend-impl.h (GGML_BACKEND_API_VERSION 2), which no wheel brings; ggml-backend.h,
// which it does, has the rest.
#include "ggml-backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ggml_backend_device {
    struct {
        const char * (*get_name)(ggml_backend_dev_t);
        const char * (*get_description)(ggml_backend_dev_t);
        void (*get_memory)(ggml_backend_dev_t, size_t *, size_t *);
        enum ggml_backend_dev_type (*get_type)(ggml_backend_dev_t);
        void (*get_props)(ggml_backend_dev_t, struct ggml_backend_dev_props *);
        ggml_backend_t (*init_backend)(ggml_backend_dev_t, const char *);
        ggml_backend_buffer_type_t (*get_buffer_type)(ggml_backend_dev_t);
        ggml_backend_buffer_type_t (*get_host_buffer_type)(ggml_backend_dev_t);
        ggml_backend_buffer_t (*buffer_from_host_ptr)(ggml_backend_dev_t, void *, size_t, size_t);
        bool (*supports_op)(ggml_backend_dev_t, const struct ggml_tensor *);
        bool (*supports_buft)(ggml_backend_dev_t, ggml_backend_buffer_type_t);
        bool (*offload_op)(ggml_backend_dev_t, const struct ggml_tensor *);
        void * (*event_new)(ggml_backend_dev_t);
        void (*event_free)(ggml_backend_dev_t, void *);
        void (*event_synchronize)(ggml_backend_dev_t, void *);
    } iface;
    ggml_backend_reg_t reg;
    void * context;
};

struct ggml_backend {
    ggml_guid_t guid;
    struct {
        const char * (*get_name)(ggml_backend_t);
        void (*free)(ggml_backend_t);
        void * async[5];
        void (*synchronize)(ggml_backend_t);
        void * plans[4];
        enum ggml_status (*graph_compute)(ggml_backend_t, struct ggml_cgraph *);
        void * events[2];
        void * graph_optimize;
    } iface;
    ggml_backend_dev_t device;
    void * context;
};

struct ggml_backend_reg {
    int api_version;
    struct {
        const char * (*get_name)(ggml_backend_reg_t);
        size_t (*get_device_count)(ggml_backend_reg_t);
        ggml_backend_dev_t (*get_device)(ggml_backend_reg_t, size_t);
        void * (*get_proc_address)(ggml_backend_reg_t, const char *);
    } iface;
    void * context;
};

static struct { char name[16]; size_t free, total; } cards[8];
static struct ggml_backend_device devices[8];
static size_t n_devices;

#define CARD(dev) cards[(dev) - devices]

static const char * dev_name(ggml_backend_dev_t dev) { return CARD(dev).name; }
static const char * dev_description(ggml_backend_dev_t dev) { (void) dev; return "Fake Card"; }
static enum ggml_backend_dev_type dev_type(ggml_backend_dev_t dev) { (void) dev; return GGML_BACKEND_DEVICE_TYPE_GPU; }
static void dev_memory(ggml_backend_dev_t dev, size_t * free, size_t * total) {
    *free = CARD(dev).free;
    *total = CARD(dev).total;
}
static void dev_props(ggml_backend_dev_t dev, struct ggml_backend_dev_props * props) {
    memset(props, 0, sizeof *props);
    props->name = dev_name(dev);
    props->description = dev_description(dev);
    props->type = dev_type(dev);
    dev_memory(dev, &props->memory_free, &props->memory_total);
}
static ggml_backend_buffer_type_t dev_buffer_type(ggml_backend_dev_t dev) {
    (void) dev;
    return ggml_backend_dev_buffer_type(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
}
static bool dev_supports_op(ggml_backend_dev_t dev, const struct ggml_tensor * op) { (void) dev; (void) op; return false; }
static bool dev_supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft) { (void) dev; (void) buft; return true; }

static const char * backend_name(ggml_backend_t backend) { (void) backend; return "Fake"; }
static void backend_free(ggml_backend_t backend) { free(backend); }
static enum ggml_status backend_compute(ggml_backend_t backend, struct ggml_cgraph * graph) {
    (void) backend; (void) graph;
    fprintf(stderr, "the fake card was given something to compute\n");
    abort();
}
static ggml_backend_t dev_init(ggml_backend_dev_t dev, const char * params) {
    (void) params;
    ggml_backend_t backend = calloc(1, sizeof *backend);
    backend->iface.get_name = backend_name;
    backend->iface.free = backend_free;
    backend->iface.graph_compute = backend_compute;
    backend->device = dev;
    return backend;
}

static const char * reg_name(ggml_backend_reg_t reg) { (void) reg; return "Fake"; }
static size_t reg_count(ggml_backend_reg_t reg) { (void) reg; return n_devices; }
static ggml_backend_dev_t reg_device(ggml_backend_reg_t reg, size_t i) { (void) reg; return &devices[i]; }
static void * reg_address(ggml_backend_reg_t reg, const char * name) { (void) reg; (void) name; return NULL; }
static struct ggml_backend_reg reg = { 2, { reg_name, reg_count, reg_device, reg_address }, NULL };

__attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
    const char * text = getenv("FAKE_GPUS");
    for (n_devices = 0; text && *text && n_devices < 8; n_devices++) {
        size_t free_mib, total_mib;
        if (sscanf(text, "%zu,%zu", &free_mib, &total_mib) != 2) abort();
        snprintf(cards[n_devices].name, sizeof cards[0].name, "FAKE%zu", n_devices);
        cards[n_devices].free = free_mib << 20;
        cards[n_devices].total = total_mib << 20;
        struct ggml_backend_device * dev = &devices[n_devices];
        dev->iface.get_name = dev_name;
        dev->iface.get_description = dev_description;
        dev->iface.get_memory = dev_memory;
        dev->iface.get_type = dev_type;
        dev->iface.get_props = dev_props;
        dev->iface.init_backend = dev_init;
        dev->iface.get_buffer_type = dev_buffer_type;
        dev->iface.supports_op = dev_supports_op;
        dev->iface.supports_buft = dev_supports_buft;
        dev->reg = &reg;
        text = strchr(text, ';');
        text = text ? text + 1 : "";
    }
    return &reg;
}
