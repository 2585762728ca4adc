/* Heat conduction in a square plate: a small but whole simulation, to try a container with.
 *
 *   du/dt = a (d2u/dx2 + d2u/dy2)  on the unit square, u = 0 on its edges
 *   u(0) = sin(pi x) sin(pi y) + 0.5 sin(3 pi x) sin(2 pi y)
 *
 * The Crank-Nicolson scheme on N x N inner points; each step solves (I - r L) u' = (I + r L) u by conjugate
 * gradients. The start is a sum of two Fourier modes, so the exact solution is known: they decay with
 * exp(-2 pi^2 a t) and exp(-13 pi^2 a t).
 *
 * usage: simulation [N [STEPS]]      writes profile.txt (the temperature along the middle) to the current
 *                                    directory; exit status 1 when the error is larger than it may be
 * build: cc -O2 -o simulation heat.c -lm
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PI 3.14159265358979323846

static int n;      /* inner points along an edge; rows are n + 2 wide, with the edges */
static double r;   /* dt / (2 h^2) */

static size_t at(int row, int column) { return (size_t)row * (size_t)(n + 2) + (size_t)column; }

/* out = (I + sign r L) in, with L the five-point Laplacian. */
static void apply(double *out, const double *in, double sign) {
    for (int i = 1; i <= n; i++)
        for (int j = 1; j <= n; j++) {
            double sum = in[at(i - 1, j)] + in[at(i + 1, j)] + in[at(i, j - 1)] + in[at(i, j + 1)];
            out[at(i, j)] = in[at(i, j)] + sign * r * (sum - 4 * in[at(i, j)]);
        }
}

static double dot(const double *a, const double *b) {
    double sum = 0;
    for (size_t k = 0; k < at(n + 2, 0); k++) sum += a[k] * b[k];
    return sum;
}

/* Solves (I - r L) u = b, starting at u; gives the number of iterations. */
static int solve(double *u, const double *b, double *res, double *dir, double *tmp) {
    size_t all = at(n + 2, 0);
    apply(tmp, u, -1);
    for (size_t k = 0; k < all; k++) dir[k] = res[k] = b[k] - tmp[k];
    double rho = dot(res, res), goal = 1e-24 * dot(b, b);
    int iterations = 0;
    while (rho > goal && iterations < 10 * n) {
        apply(tmp, dir, -1);
        double alpha = rho / dot(dir, tmp);
        for (size_t k = 0; k < all; k++) {
            u[k] += alpha * dir[k];
            res[k] -= alpha * tmp[k];
        }
        double next = dot(res, res), beta = next / rho;
        for (size_t k = 0; k < all; k++) dir[k] = res[k] + beta * dir[k];
        rho = next;
        iterations++;
    }
    return iterations;
}

/* The exact temperature in row i and column j at the time t. */
static double exact(double h, int i, int j, double t) {
    double x = i * h, y = j * h;
    return exp(-2 * PI * PI * t) * sin(PI * x) * sin(PI * y)
         + exp(-13 * PI * PI * t) * 0.5 * sin(3 * PI * x) * sin(2 * PI * y);
}

int main(int argc, char **argv) {
    n = argc > 1 ? atoi(argv[1]) : 255;
    int steps = argc > 2 ? atoi(argv[2]) : 100;
    if (n < 3 || n > 4095 || n % 2 == 0 || steps < 1) {
        fprintf(stderr, "simulation: N must be odd and from 3 to 4095, STEPS at least 1\n");
        return 2;
    }
    const double end = 0.02; /* the conductivity a is 1 */
    double h = 1.0 / (n + 1), dt = end / steps;
    r = dt / (2 * h * h);
    double *field[5];
    for (int k = 0; k < 5; k++)
        if (!(field[k] = calloc(at(n + 2, 0), sizeof(double)))) {
            perror("simulation");
            return 2;
        }
    double *u = field[0], *b = field[1];
    for (int i = 1; i <= n; i++)
        for (int j = 1; j <= n; j++) u[at(i, j)] = exact(h, i, j, 0);
    long iterations = 0;
    for (int step = 0; step < steps; step++) {
        apply(b, u, 1);
        iterations += solve(u, b, field[2], field[3], field[4]);
    }
    double worst = 0;
    for (int i = 1; i <= n; i++)
        for (int j = 1; j <= n; j++) {
            double error = fabs(u[at(i, j)] - exact(h, i, j, end));
            if (error > worst) worst = error;
        }
    int middle = (n + 1) / 2;
    FILE *profile = fopen("profile.txt", "w");
    if (!profile) {
        perror("simulation: profile.txt");
        return 2;
    }
    for (int j = 0; j <= n + 1; j += (n + 1) / 8) fprintf(profile, "%.4f %.6f\n", j * h, u[at(middle, j)]);
    if (fclose(profile)) {
        perror("simulation: profile.txt");
        return 2;
    }
    printf("grid %d x %d, %d steps\n", n, n, steps);
    printf("temperature at the centre %.6f, exact %.6f\n", u[at(middle, middle)],
           exact(h, middle, middle, end));
    fprintf(stderr, "%ld iterations, largest error %.1e\n", iterations, worst);
    /* Second order in h and dt. */
    return worst < 2 * (h * h + dt * dt) ? 0 : 1;
}
