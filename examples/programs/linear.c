/* A scoring program in C: logistic regression, by Penstock's line protocol (docs/line-protocol.md).
 *
 *     cc -O2 -o linear linear.c -lm
 *
 * Its model file holds numbers: the bias, then one weight a column. A missing value counts as 0. */

#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 1024

static double bias, weights[MOST];
static int width;

static int learned(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%lf", &bias) != 1) return 0;
    while (width < MOST && fscanf(file, "%lf", &weights[width]) == 1) width++;
    fclose(file);
    return 1;
}

/* One row, "[0.5,null,3]"; where it ends, or null where it is none of ours. */
static char *row(char *at, double *sum) {
    *sum = bias;
    if (*at++ != '[') return NULL;
    for (int i = 0; i < width; i++) {
        char *end = at;
        if (strncmp(at, "null", 4) == 0) end = at + 4;
        else *sum += weights[i] * strtod(at, &end);
        if (end == at || *end != (i + 1 < width ? ',' : ']')) return NULL;
        at = end + 1;
    }
    return at;
}

int main(int count, char **arguments) {
    char *line = NULL;
    size_t room = 0;
    if (count < 2 || getline(&line, &room, stdin) < 0) return 1;
    if (!strstr(line, "\"penstock\":1,") || !learned(arguments[1])) {
        puts("{\"penstock\":1,\"error\":\"another protocol, or no model\"}");
        return 1;
    }
    puts("{\"penstock\":1,\"returns\":\"probability\"}");
    fflush(stdout);
    while (getline(&line, &room, stdin) > 0) {
        char *at = line + 1, before = '[';
        double sum;
        while (*at == '[') {
            if (!(at = row(at, &sum))) return 1;
            printf("%c%.17g", before, 1 / (1 + exp(-sum)));
            before = ',';
            if (*at == ',') at++;
        }
        puts(before == '[' ? "[]" : "]");
        fflush(stdout);
    }
    return 0;
}
