/* Latency and bandwidth between two ranks, measured as the OSU benchmarks measure them: a message of 8 bytes back and
 * forth, half the time of a round; windows of 64 messages of 1 MiB one way and a short answer, the bytes over the time.
 * Both in batches, of which the best counts: what else runs on the machine interrupts some, and not the best.
 *
 * usage: mpirun -n 2 pingpong [ROUNDS [WINDOWS]]
 *        prints: MICROSECONDS MEGABYTES_PER_SECOND SINGLE_COPY LIBRARY
 *        SINGLE_COPY is what Open MPI 4 says, after it has looked, of how large messages go between processes of a
 *        machine (cma, xpmem, none); "-" of other libraries.
 * build: mpicc -O2 -o pingpong pingpong.c
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL = 8, LARGE = 1 << 20, WINDOW = 64, BATCHES = 100 };

static double latency(int rank, int rounds, char *buffer) {
    double best = 0;
    for (int batch = 0; batch < BATCHES; batch++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double begin = MPI_Wtime();
        for (int i = 0; i < rounds / BATCHES; i++) {
            if (rank == 0) {
                MPI_Send(buffer, SMALL, MPI_CHAR, 1, 1, MPI_COMM_WORLD);
                MPI_Recv(buffer, SMALL, MPI_CHAR, 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            } else {
                MPI_Recv(buffer, SMALL, MPI_CHAR, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                MPI_Send(buffer, SMALL, MPI_CHAR, 0, 1, MPI_COMM_WORLD);
            }
        }
        double each = (MPI_Wtime() - begin) / (rounds / BATCHES) / 2 * 1e6;
        if (batch == 0 || each < best) best = each;
    }
    return best;
}

static double bandwidth(int rank, int windows, char *buffer) {
    MPI_Request requests[WINDOW];
    double best = 0;
    char done = 0;
    for (int i = 0; i < windows; i++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double begin = MPI_Wtime();
        for (int k = 0; k < WINDOW; k++) {
            if (rank == 0)
                MPI_Isend(buffer, LARGE, MPI_CHAR, 1, 2, MPI_COMM_WORLD, &requests[k]);
            else
                MPI_Irecv(buffer, LARGE, MPI_CHAR, 0, 2, MPI_COMM_WORLD, &requests[k]);
        }
        MPI_Waitall(WINDOW, requests, MPI_STATUSES_IGNORE);
        if (rank == 0)
            MPI_Recv(&done, 1, MPI_CHAR, 1, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else
            MPI_Send(&done, 1, MPI_CHAR, 0, 3, MPI_COMM_WORLD);
        double rate = (double)WINDOW * LARGE / 1e6 / (MPI_Wtime() - begin);
        if (rate > best) best = rate;
    }
    return best;
}

/* The value of Open MPI 4's variable, by its name. */
static void single_copy(char *name, int size) {
    int provided, index, scope, verbosity, bind, length = 0, chars, value = -1, count;
    MPI_Datatype type;
    MPI_T_enum names = MPI_T_ENUM_NULL;
    MPI_T_cvar_handle handle;
    snprintf(name, (size_t)size, "-");
    if (MPI_T_init_thread(MPI_THREAD_SINGLE, &provided) != MPI_SUCCESS) return;
    if (MPI_T_cvar_get_index("btl_vader_single_copy_mechanism", &index) == MPI_SUCCESS &&
        MPI_T_cvar_get_info(index, NULL, &length, &verbosity, &type, &names, NULL, &length, &bind, &scope) == MPI_SUCCESS &&
        names != MPI_T_ENUM_NULL && MPI_T_cvar_handle_alloc(index, NULL, &handle, &count) == MPI_SUCCESS) {
        MPI_T_cvar_read(handle, &value);
        int items = 0, of;
        MPI_T_enum_get_info(names, &items, NULL, &length);
        for (int i = 0; i < items; i++) {
            char item[64];
            chars = sizeof item;
            if (MPI_T_enum_get_item(names, i, &of, item, &chars) == MPI_SUCCESS && of == value)
                snprintf(name, (size_t)size, "%s", item);
        }
        MPI_T_cvar_handle_free(&handle);
    }
    MPI_T_finalize();
}

int main(int argc, char **argv) {
    int rank, ranks, length;
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks != 2) {
        fprintf(stderr, "pingpong: it is for two ranks, not for %d\n", ranks);
        MPI_Finalize();
        return 2;
    }
    MPI_Get_library_version(version, &length);
    char copy[64];
    single_copy(copy, sizeof copy);
    version[strcspn(version, ",\n")] = 0;
    int rounds = argc > 1 ? atoi(argv[1]) : 20000, windows = argc > 2 ? atoi(argv[2]) : 20;
    char *buffer = malloc(LARGE);
    if (!buffer || rounds < BATCHES || windows < 1) MPI_Abort(MPI_COMM_WORLD, 2);
    for (int i = 0; i < LARGE; i++) buffer[i] = (char)i;
    double microseconds = latency(rank, rounds, buffer);
    double megabytes = bandwidth(rank, windows, buffer);
    if (rank == 0) printf("%.3f %.0f %s %s\n", microseconds, megabytes, copy, version);
    free(buffer);
    MPI_Finalize();
    return 0;
}
