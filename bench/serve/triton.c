/* bench: a backend for Triton's own server: a linear model or trees, in C, so that what is measured is the server.

   The interface is Triton's backend API, version 1; what is used of it is declared here. BENCH_WEIGHTS names a file:
   f64 intercept, u32 n and n f64 weights, u32 n and n nodes (i32 feature, -1 at a leaf; i32 left, right; i32 unused; f64
   threshold or value), u32 n and n u32 roots. The score is the logistic function of their sum. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef void *Error;
enum { FP64 = 12, FINAL = 1, RELEASE_ALL = 1, INTERNAL = 1 };
extern Error TRITONSERVER_ErrorNew(int code, const char *text);
extern Error TRITONBACKEND_RequestInput(void *request, const char *name, void **input);
extern Error TRITONBACKEND_InputProperties(void *input, const char **name, int *type, const int64_t **shape, uint32_t *dims,
                                           uint64_t *size, uint32_t *buffers);
extern Error TRITONBACKEND_InputBuffer(void *input, uint32_t i, const void **buffer, uint64_t *size, int *memory, int64_t *id);
extern Error TRITONBACKEND_ResponseNew(void **response, void *request);
extern Error TRITONBACKEND_ResponseOutput(void *response, void **output, const char *name, int type, const int64_t *shape,
                                          uint32_t dims);
extern Error TRITONBACKEND_OutputBuffer(void *output, void **buffer, uint64_t size, int *memory, int64_t *id);
extern Error TRITONBACKEND_ResponseSend(void *response, uint32_t flags, Error error);
extern Error TRITONBACKEND_RequestRelease(void *request, uint32_t flags);

typedef struct { int32_t feature, left, right, unused; double value; } Node;
static double delay_s, intercept, *weights;
static uint32_t n_weights, n_nodes, n_roots, *roots;
static Node *nodes;

static void *list(FILE *file, uint32_t *n, size_t size) {
    if (fread(n, 4, 1, file) != 1) return NULL;
    void *made = calloc(*n + 1, size);
    return made && fread(made, size, *n, file) == *n ? made : NULL;
}

Error TRITONBACKEND_Initialize(void *backend) {
    (void)backend;
    const char *path = getenv("BENCH_WEIGHTS"), *delay = getenv("BENCH_DELAY_S");
    delay_s = delay ? atof(delay) : 0;
    FILE *file = path ? fopen(path, "rb") : NULL;
    int good = file && fread(&intercept, 8, 1, file) == 1 && (weights = list(file, &n_weights, 8)) &&
               (nodes = list(file, &n_nodes, sizeof *nodes)) && (roots = list(file, &n_roots, 4));
    if (file) fclose(file);
    return good ? NULL : TRITONSERVER_ErrorNew(INTERNAL, "the weights cannot be read");
}

static double score(const double *x) {
    double sum = intercept;
    for (uint32_t i = 0; i < n_weights; i++) sum += weights[i] * x[i];
    for (uint32_t i = 0; i < n_roots; i++) {
        const Node *at = &nodes[roots[i]];
        while (at->feature >= 0) at = &nodes[(float)x[at->feature] <= at->value ? at->left : at->right];
        sum += at->value;
    }
    return 1 / (1 + exp(-sum));
}

static Error answer(void *request, void *response) {
    void *input, *output, *to;
    const void *from;
    const int64_t *shape;
    uint64_t size;
    uint32_t dims, buffers;
    int type, memory = 0;
    int64_t id = 0;
    Error error;
    if ((error = TRITONBACKEND_RequestInput(request, "x", &input))) return error;
    if ((error = TRITONBACKEND_InputProperties(input, NULL, &type, &shape, &dims, &size, &buffers))) return error;
    if ((error = TRITONBACKEND_InputBuffer(input, 0, &from, &size, &memory, &id))) return error;
    int64_t width = shape[dims - 1], rows = size / 8 / width, out[2] = {rows, 1};
    if ((error = TRITONBACKEND_ResponseOutput(response, &output, "score", FP64, out, 2))) return error;
    memory = 0;
    if ((error = TRITONBACKEND_OutputBuffer(output, &to, rows * 8, &memory, &id))) return error;
    if (delay_s > 0) usleep(delay_s * 1e6);
    if (delay_s > 0 && *(const double *)from == 666) sleep(3600); /* the row that hangs */
    for (int64_t i = 0; i < rows; i++) ((double *)to)[i] = score((const double *)from + i * width);
    return NULL;
}

Error TRITONBACKEND_ModelInstanceExecute(void *instance, void **requests, uint32_t n) {
    (void)instance;
    for (uint32_t i = 0; i < n; i++) {
        void *response;
        Error error = TRITONBACKEND_ResponseNew(&response, requests[i]);
        if (!error) TRITONBACKEND_ResponseSend(response, FINAL, answer(requests[i], response));
        TRITONBACKEND_RequestRelease(requests[i], RELEASE_ALL);
    }
    return NULL;
}
