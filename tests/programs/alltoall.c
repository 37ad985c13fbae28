/* An ordinary MPI program: it knows nothing of the network below it.
 *
 * alltoall KIB ROUNDS: each round is a sum over all ranks and an exchange of KIB KiB between any two of them; both are checked.
 * Rank 0 prints where each rank runs, each round with its seconds, and a last line. Anything wrong ends the job with status 1. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* What `from` sends to `to` in a round: different for any other three of them. */
static uint32_t word(uint32_t from, uint32_t to, uint32_t round, uint32_t at)
{
    return (at * 2654435761u) ^ (round * 40503u << 8) ^ (from << 4) ^ to;
}

static void wrong(const char *what, int rank, int round)
{
    fprintf(stderr, "rank %d, round %d: %s is wrong\n", rank, round, what);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void exchange(uint32_t *out, uint32_t *in, int words, int rank, int size, int round)
{
    for (int to = 0; to < size; to++)
        for (int at = 0; at < words; at++)
            out[(size_t)to * words + at] = word(rank, to, round, at);
    MPI_Alltoall(out, words, MPI_UINT32_T, in, words, MPI_UINT32_T, MPI_COMM_WORLD);
    for (int from = 0; from < size; from++)
        for (int at = 0; at < words; at++)
            if (in[(size_t)from * words + at] != word(from, rank, round, at))
                wrong("what came", rank, round);
}

static void say_hosts(int rank, int size)
{
    char name[MPI_MAX_PROCESSOR_NAME] = "";
    int length = 0;
    MPI_Get_processor_name(name, &length);
    char *all = malloc((size_t)size * sizeof name);
    MPI_Gather(name, sizeof name, MPI_CHAR, all, sizeof name, MPI_CHAR, 0, MPI_COMM_WORLD);
    for (int from = 0; rank == 0 && from < size; from++)
        printf("rank %d of %d on %s\n", from, size, all + (size_t)from * sizeof name);
    free(all);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    int rank, size;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int words = argc > 1 ? atoi(argv[1]) * 256 : 256;
    int rounds = argc > 2 ? atoi(argv[2]) : 1;
    say_hosts(rank, size);
    uint32_t *out = malloc((size_t)size * words * sizeof *out);
    uint32_t *in = malloc((size_t)size * words * sizeof *in);
    if (!out || !in)
        wrong("the memory", rank, 0);
    for (int round = 1; round <= rounds; round++) {
        double began = MPI_Wtime();
        int mine = rank + round, sum = 0;
        MPI_Allreduce(&mine, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        if (sum != size * (size - 1) / 2 + size * round)
            wrong("the sum", rank, round);
        exchange(out, in, words, rank, size, round);
        if (rank == 0) {
            printf("round %d took %.3f s\n", round, MPI_Wtime() - began);
            fflush(stdout);
        }
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0)
        printf("all %d rounds of %d ranks are right\n", rounds, size);
    free(out);
    free(in);
    MPI_Finalize();
    return 0;
}
