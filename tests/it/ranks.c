/* A rank: holds a text in its memory, or reads that of another one, as MPI does within a node.
 * usage: ranks hold                prints its pid and the text's address, and waits for the end of standard input
 *        ranks peek PID ADDRESS    prints the text, by process_vm_readv(2) */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static char text[32] = "in another's memory";

int main(int count, char **words) {
    if (count == 2 && !strcmp(words[1], "hold")) {
        printf("%d %p\n", (int)getpid(), (void *)text);
        fflush(stdout);
        while (getchar() != EOF) {}
        return 0;
    }
    if (count != 4) return 2;
    char got[sizeof text] = "";
    struct iovec here = {got, sizeof got}, there = {(void *)strtoull(words[3], NULL, 16), sizeof got};
    if (process_vm_readv((pid_t)atoi(words[2]), &here, 1, &there, 1, 0) != (ssize_t)sizeof got)
        snprintf(got, sizeof got, "%s", strerror(errno));
    puts(got);
    return 0;
}
