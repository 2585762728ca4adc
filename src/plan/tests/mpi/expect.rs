//! What ranks are told before they run into it, by one of them.

use super::*;

/// What is said to rank 0 of ranks of Open MPI's mpirun.
fn told(world: World, pairs: &[(&str, &str)]) -> Vec<String> {
    let ranks = [
        ("PMIX_NAMESPACE", "1"),
        ("PMIX_RANK", "0"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
        ("OMPI_COMM_WORLD_RANK", "0"),
    ];
    world.with(&[&ranks[..], pairs].concat()).plan().unwrap().warnings
}

#[test]
fn ranks_of_several_nodes_that_would_not_use_the_fabric_are_told() {
    let world = |image: &[(&str, &Made<'_>)]| {
        let mut world = open_mpi_world();
        world.flags.mpi = None;
        fill(world.host_files.path(), &["dev/cxi0", "dev/infiniband/uverbs0"]);
        image.iter().for_each(|(path, made)| world.put_in_image(path, made));
        world
    };
    let spread = &[("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
    let warnings = told(world(&[]), spread);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with(
            "ranks of different nodes would speak TCP: the host has Slingshot (cxi0), and the image has no libcxi.so.1"
        ),
        "{warnings:?}"
    );
    assert_eq!(told(world(&[]), &[("OMPI_COMM_WORLD_LOCAL_SIZE", "4")]), [""; 0]);
    let cxi = Made { soname: "libcxi.so.1", ..PLAIN };
    assert_eq!(told(world(&[("usr/lib/libcxi.so.1", &cxi)]), spread), [""; 0]);
}

#[test]
fn what_a_library_understands_is_looked_at_before_anybody_is_warned() {
    // Open MPI 4 may have been built with PMI, MPICH with PMIx.
    let pmi = [("PMI_RANK", "0"), ("PMI_SIZE", "4"), ("PMI_FD", "6")];
    let mut world = open_mpi_world();
    world.flags.mpi = None;
    world.put_in_image("usr/lib/openmpi/mca_pmix_s2.so", &PLAIN);
    assert_eq!(world.with(&pmi).plan().unwrap().warnings, [""; 0]);
    let mpich = |needed| {
        let mut world = super::super::world(&[], &[]);
        world.put_in_image("usr/lib/libc.so.6", &LIBC);
        world.put_in_image("usr/lib/libmpich.so.12", &Made { needed, ..MPICH });
        world.words = vec!["true".into()];
        told(world, &[])
    };
    assert!(mpich(&["libc.so.6"])[0].contains("the launcher offers PMIx, and MPICH 4.0.2 wants PMI"));
    assert_eq!(mpich(&["libpmix.so.2", "libc.so.6"]), [""; 0]);
}

#[test]
fn ranks_that_do_not_reach_a_pmix_that_asks_for_munge_are_told() {
    let world = || {
        let mut world = open_mpi_world();
        world.flags.mpi = None;
        world
    };
    let munge = &[("PMIX_SECURITY_MODE", "munge,native")];
    let warnings = told(world(), munge);
    assert!(
        warnings[0].starts_with("the launcher's PMIx asks for munge, and the image has no libmunge.so.2")
    );
    assert_eq!(told(world(), &[("PMIX_SECURITY_MODE", "native")]), [""; 0]);
    let has = world();
    has.put_in_image("usr/lib/libmunge.so.2", &Made { soname: "libmunge.so.2", ..PLAIN });
    assert_eq!(told(has, munge), [""; 0]);
    // What the sentence says to do ends it.
    let mut answered = world();
    answered.flags.env = vec!["PMIX_MCA_psec=native".into()];
    assert_eq!(told(answered, munge), [""; 0]);
}

#[test]
fn a_plan_says_what_yama_allows() {
    let hints = |scope: &str| {
        let mut world = open_mpi_world();
        world.flags.mpi = None;
        fill(world.host_files.path(), &[&format!("proc/sys/kernel/yama/ptrace_scope = {scope}")]);
        let ranks = [("PMIX_NAMESPACE", "1"), ("PMIX_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "4")];
        world.with(&ranks).plan().unwrap().scheduler.unwrap().hints
    };
    assert_eq!(hints("0"), [""; 0]);
    assert!(hints("1")[0].contains("ranks whose MPI does not allow it (Open MPI and UCX do) may not read"));
    assert!(hints("2")[0].contains("ptrace_scope is 2: ranks may not read each other's memory"));
}

#[test]
fn a_program_of_mpi_that_srun_offers_no_pmi_is_told() {
    let step =
        [("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0"), ("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_PROCID", "0")];
    let world = |more: &[(&str, &str)]| {
        let mut world = open_mpi_world();
        world.flags.mpi = None;
        world.put_in_image("usr/bin/solver", &Made { needed: &["libmpi.so.40", "libc.so.6"], ..PLAIN });
        world.words = vec!["solver".into()];
        world.with(&[&step[..], more].concat())
    };
    assert_eq!(
        world(&[]).plan().unwrap().warnings,
        [
            "each of the 4 ranks would stop, or be rank 0 of 1: srun offers no PMI, and Open MPI 4.0.1 needs one; start with \
             srun --mpi=pmix ('srun --mpi=list' names what there is)"
        ]
    );
    let offered = [("PMIX_NAMESPACE", "1"), ("PMIX_RANK", "0")];
    assert_eq!(world(&offered).plan().unwrap().warnings, [""; 0]);
    let mut bound = world(&[]);
    bound.flags.mpi = Some(OsString::new());
    assert!(bound.plan().unwrap().warnings[0].contains("Open MPI 4.1.4 needs one"));
    // What is no program of MPI's needs none.
    let mut script = world(&[]);
    script.words = vec!["true".into()];
    assert_eq!(script.plan().unwrap().warnings, [""; 0]);
}

#[test]
fn cray_mpich_that_is_told_of_gpus_and_lacks_their_part_is_told() {
    let cray = "opt/cray/pe/mpich/8.1.28/ofi/gnu/12.3/lib/libmpi_gnu_123.so.12";
    let told = |pairs: &[(&str, &str)]| {
        let mut world = world(&["opt/cray/pe/mpich/8.1.28/gtl/lib/libmpi_gtl_cuda.so", "dev/nvidiactl"], &[]);
        world.put_in_image("usr/lib/libc.so.6", &LIBC);
        world.put_in_image("usr/lib/libmpi.so.12", &Made { soname: "libmpi.so.12", ..MPICH });
        world.put_on_host(cray, &Made { soname: "libmpi_gnu_123.so.12", ..MPICH });
        world.flags.mpi = Some(format!("/{cray}").into());
        let ranks = [("PMI_RANK", "0"), ("PMI_SIZE", "4"), ("MPICH_GPU_SUPPORT_ENABLED", "1")];
        world.flags.env = pairs.iter().map(|(name, value)| format!("{name}={value}").into()).collect();
        world.with(&ranks).plan().unwrap().warnings
    };
    let warnings = told(&[]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains(
            "add --containlibs /opt/cray/pe/mpich/8.1.28/gtl/lib/libmpi_gtl_cuda.so --env LD_PRELOAD=libmpi_gtl_cuda.so"
        ),
        "{warnings:?}"
    );
    assert_eq!(told(&[("LD_PRELOAD", "libmpi_gtl_cuda.so")]), [""; 0]);
    assert_eq!(told(&[("MPICH_GPU_SUPPORT_ENABLED", "0")]), [""; 0]);
}

#[test]
fn ranks_that_are_parted_from_their_launcher_are_told() {
    let said = |change: fn(&mut World)| {
        let mut world = open_mpi_world();
        world.flags.mpi = None;
        change(&mut world);
        told(world, &[]).join("\n")
    };
    assert!(
        said(|world| world.flags.namespaces.network = Some("none".into()))
            .contains("a network of their own (--network none) reach neither")
    );
    assert!(
        said(|world| world.flags.namespaces.fakeroot = true)
            .contains("ranks as root (--fakeroot) are refused")
    );
    assert!(
        said(|world| world.flags.namespaces.pid = true)
            .contains("processes of their own (--pid) take each other")
    );
    let as_root = said(|world| {
        world.flags.namespaces.fakeroot = true;
        world.host.uid = 0;
    });
    assert!(!as_root.contains("are refused"), "{as_root}");
}
