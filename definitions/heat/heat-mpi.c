/* The simulation of heat.c, by the ranks of an MPI program: same problem, same scheme, same result.
 *
 * The rows of the plate are dealt out in blocks, one a rank; each rank keeps a copy of the row above and of the row
 * below its own, and sends its outermost rows to its neighbours before the Laplacian is applied. Scalar products are
 * summed over all ranks.
 *
 * usage: mpirun -n RANKS heat-mpi [N [STEPS]]      rank 0 writes profile.txt to the current directory; exit status 1
 *                                                  when the error is larger than it may be
 * build: mpicc -O2 -o heat-mpi heat-mpi.c -lm
 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#define PI 3.14159265358979323846

static int n;             /* inner points along an edge; rows are n + 2 wide, with the edges */
static int first, rows;   /* the inner rows of this rank: first to first + rows - 1 */
static int above, below;  /* the ranks of the neighbours */
static double r;          /* dt / (2 h^2) */

/* Rows are numbered from 0, the neighbour's above, to rows + 1, the neighbour's below. */
static size_t at(int row, int column) { return (size_t)row * (size_t)(n + 2) + (size_t)column; }

static void exchange(double *u) {
    MPI_Sendrecv(u + at(1, 0), n + 2, MPI_DOUBLE, above, 0, u + at(rows + 1, 0), n + 2, MPI_DOUBLE, below, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Sendrecv(u + at(rows, 0), n + 2, MPI_DOUBLE, below, 1, u + at(0, 0), n + 2, MPI_DOUBLE, above, 1,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

/* out = (I + sign r L) in, with L the five-point Laplacian. */
static void apply(double *out, double *in, double sign) {
    exchange(in);
    for (int i = 1; i <= rows; i++)
        for (int j = 1; j <= n; j++) {
            double sum = in[at(i - 1, j)] + in[at(i + 1, j)] + in[at(i, j - 1)] + in[at(i, j + 1)];
            out[at(i, j)] = in[at(i, j)] + sign * r * (sum - 4 * in[at(i, j)]);
        }
}

static double dot(const double *a, const double *b) {
    double own = 0, sum;
    for (int i = 1; i <= rows; i++)
        for (int j = 1; j <= n; j++) own += a[at(i, j)] * b[at(i, j)];
    MPI_Allreduce(&own, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return sum;
}

/* Solves (I - r L) u = b by conjugate gradients, starting at u. */
static void solve(double *u, const double *b, double *res, double *dir, double *tmp) {
    apply(tmp, u, -1);
    for (size_t k = at(1, 0); k < at(rows + 1, 0); k++) dir[k] = res[k] = b[k] - tmp[k];
    double rho = dot(res, res), goal = 1e-24 * dot(b, b);
    for (int iterations = 0; rho > goal && iterations < 10 * n; iterations++) {
        apply(tmp, dir, -1);
        double alpha = rho / dot(dir, tmp);
        for (size_t k = at(1, 0); k < at(rows + 1, 0); k++) {
            u[k] += alpha * dir[k];
            res[k] -= alpha * tmp[k];
        }
        double next = dot(res, res), beta = next / rho;
        for (size_t k = at(1, 0); k < at(rows + 1, 0); k++) dir[k] = res[k] + beta * dir[k];
        rho = next;
    }
}

/* The exact temperature in row i and column j at the time t. */
static double exact(double h, int i, int j, double t) {
    double x = i * h, y = j * h;
    return exp(-2 * PI * PI * t) * sin(PI * x) * sin(PI * y)
         + exp(-13 * PI * PI * t) * 0.5 * sin(3 * PI * x) * sin(2 * PI * y);
}

int main(int argc, char **argv) {
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    n = argc > 1 ? atoi(argv[1]) : 255;
    int steps = argc > 2 ? atoi(argv[2]) : 100;
    if (n < 3 || n > 4095 || n % 2 == 0 || steps < 1 || ranks > n) {
        if (rank == 0) fprintf(stderr, "heat-mpi: N must be odd, from 3 to 4095, and not less than the ranks\n");
        MPI_Finalize();
        return 2;
    }
    first = 1 + (int)((long)n * rank / ranks);
    rows = 1 + (int)((long)n * (rank + 1) / ranks) - first;
    above = rank > 0 ? rank - 1 : MPI_PROC_NULL;
    below = rank < ranks - 1 ? rank + 1 : MPI_PROC_NULL;
    const double end = 0.02; /* the conductivity a is 1 */
    double h = 1.0 / (n + 1), dt = end / steps;
    r = dt / (2 * h * h);
    double *field[5];
    for (int k = 0; k < 5; k++)
        if (!(field[k] = calloc(at(rows + 2, 0), sizeof(double)))) {
            perror("heat-mpi");
            MPI_Abort(MPI_COMM_WORLD, 2);
        }
    double *u = field[0], *b = field[1];
    for (int i = 1; i <= rows; i++)
        for (int j = 1; j <= n; j++) u[at(i, j)] = exact(h, first + i - 1, j, 0);
    for (int step = 0; step < steps; step++) {
        apply(b, u, 1);
        solve(u, b, field[2], field[3], field[4]);
    }
    double own = 0, worst;
    for (int i = 1; i <= rows; i++)
        for (int j = 1; j <= n; j++) {
            double error = fabs(u[at(i, j)] - exact(h, first + i - 1, j, end));
            if (error > own) own = error;
        }
    MPI_Allreduce(&own, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    /* The row along the middle goes to rank 0. */
    int middle = (n + 1) / 2, holds = middle >= first && middle < first + rows;
    double *line = calloc((size_t)n + 2, sizeof(double)), *sum = calloc((size_t)n + 2, sizeof(double));
    for (int j = 0; holds && j < n + 2; j++) line[j] = u[at(middle - first + 1, j)];
    MPI_Reduce(line, sum, n + 2, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    int status = worst < 2 * (h * h + dt * dt) ? 0 : 1; /* second order in h and dt */
    if (rank == 0) {
        FILE *profile = fopen("profile.txt", "w");
        if (!profile) {
            perror("heat-mpi: profile.txt");
            MPI_Abort(MPI_COMM_WORLD, 2);
        }
        for (int j = 0; j <= n + 1; j += (n + 1) / 8) fprintf(profile, "%.4f %.6f\n", j * h, sum[j]);
        fclose(profile);
        printf("grid %d x %d, %d steps, %d ranks\n", n, n, steps, ranks);
        printf("temperature at the centre %.6f, exact %.6f\n", sum[middle], exact(h, middle, middle, end));
        fprintf(stderr, "largest error %.1e\n", worst);
    }
    MPI_Finalize();
    return status;
}
