//! The host's MPI on made-up hosts and images: what is found, what is decided, what is brought in and what is refused.

mod expect;

use super::*;
use crate::elf::made::Made;

const PLAIN: Made<'_> = Made {
    machine: 0,
    narrow: false,
    soname: "",
    needed: &["libc.so.6"],
    rpath: "",
    runpath: "",
    interpreter: "",
    requires: &[("libc.so.6", &["GLIBC_2.34"])],
    defines: &[],
    symbols: &[],
    undefined: &[],
    text: ("", ""),
};
const LIBC: Made<'_> =
    Made { soname: "libc.so.6", needed: &[], requires: &[], defines: &["GLIBC_2.34", "GLIBC_2.36"], ..PLAIN };
const NEW: &[(&str, &[&str])] = &[("libc.so.6", &["GLIBC_2.38"])];
const OPEN_MPI: Made<'_> = Made {
    soname: "libmpi.so.40",
    needed: &["libopen-pal.so.40", "libhwloc.so.15", "libc.so.6"],
    symbols: &["MPI_Init", "MPI_Send", "ompi_mpi_comm_world"],
    ..PLAIN
};
const MPICH: Made<'_> = Made {
    soname: "libmpich.so.12",
    symbols: &["MPI_Init", "MPI_Send"],
    text: ("MPII_Version_string", "4.0.2"),
    ..PLAIN
};

/// What such a host and image have besides MPI's libraries.
const OPEN_MPI_HOST: &[&str] = &[
    "usr/bin/mpirun -> orterun",
    "usr/bin/orterun",
    "usr/lib/libmpi.so.40 -> libmpi.so.40.30.4",
    "usr/lib/openmpi/",
    "usr/share/openmpi/",
    "etc/openmpi/",
    "dev/infiniband/",
    "dev/null",
];
const OPEN_MPI_IMAGE: &[&str] = &["usr/lib/libmpi.so.40 -> libmpi.so.40.20.1", ".singularity.d/libs/"];

/// A host with Open MPI 4.1.4, an image with Open MPI 4.0.1, and --mpi.
fn open_mpi_world() -> World {
    let mut world = with_open_mpi(world(&[], &[]));
    world.flags.mpi = Some(OsString::new());
    world
}

/// The same on top of another world.
pub(super) fn with_open_mpi(world: World) -> World {
    fill(world.host_files.path(), OPEN_MPI_HOST);
    fill(world.image_files.path(), OPEN_MPI_IMAGE);
    world.put_on_host("usr/lib/libmpi.so.40.30.4", &OPEN_MPI);
    world.put_on_host("usr/lib/libopen-pal.so.40", &Made { soname: "libopen-pal.so.40", ..PLAIN });
    world.put_on_host(
        "usr/lib/libhwloc.so.15",
        &Made { soname: "libhwloc.so.15", symbols: &["hwloc"], ..PLAIN },
    );
    world.put_on_host(
        "usr/lib/openmpi/mca_btl_sm.so",
        &Made { needed: &["libnl.so.3", "libc.so.6"], ..PLAIN },
    );
    world.put_on_host("usr/lib/openmpi/mca_pml_ucx.so", &Made { needed: &["libucp.so.0"], ..PLAIN });
    world.put_on_host("usr/lib/libnl.so.3", &Made { soname: "libnl.so.3", ..PLAIN });
    world.put_on_host("usr/lib/libucp.so.0", &Made { soname: "libucp.so.0", requires: NEW, ..PLAIN });
    world.put_in_image("usr/lib/libc.so.6", &LIBC);
    world.put_in_image("usr/lib/libmpi.so.40.20.1", &OPEN_MPI);
    world.put_in_image(
        "usr/lib/libhwloc.so.15",
        &Made { soname: "libhwloc.so.15", symbols: &["hwloc"], ..PLAIN },
    );
    world.with(&[("PATH", "/usr/local/bin:/usr/bin")])
}

impl World {
    fn put_on_host(&self, path: &str, made: &Made<'_>) {
        made.write(&self.host_files.path().join(path));
    }

    fn put_in_image(&self, path: &str, made: &Made<'_>) {
        made.write(&self.image_files.path().join(path));
    }

    fn with(mut self, pairs: &[(&str, &str)]) -> Self {
        self.host = self.host.with_environment(pairs);
        self
    }

    /// The error and its hint.
    fn refusal(&self) -> (String, String) {
        let error = self.plan().unwrap_err();
        let hint = error.hint.clone().unwrap_or_default();
        (error.to_string().trim_start_matches("cannot use the host's MPI in the image ").to_owned(), hint)
    }
}

fn brought(plan: &RunPlan) -> Vec<String> {
    let of_flag = plan.mounts.iter().filter(|mount| mount.because.origin().starts_with("--mpi"));
    of_flag
        .filter_map(|mount| match &mount.what {
            MountKind::Bind { source, .. } => {
                Some(format!("{} < {}", mount.target.0.display(), source.0.display()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn the_library_its_parts_and_plugins_come_and_the_images_own_serve_for_the_rest() {
    let plan = open_mpi_world().plan().unwrap();
    assert_eq!(
        brought(&plan),
        [
            "/usr/lib/libmpi.so.40.20.1 < /usr/lib/libmpi.so.40.30.4",
            "/.singularity.d/libs/libopen-pal.so.40 < /usr/lib/libopen-pal.so.40",
            "/usr/lib/openmpi < /usr/lib/openmpi",
            "/.singularity.d/libs/libnl.so.3 < /usr/lib/libnl.so.3",
            "/etc/openmpi < /etc/openmpi",
            "/usr/share/openmpi < /usr/share/openmpi",
        ]
    );
    let left_out: Vec<_> = plan.left_out.iter().map(|one| format!("{}: {}", one.what, one.why)).collect();
    assert_eq!(
        left_out,
        [
            "mca_pml_ucx.so: libucp.so.0 needs GLIBC_2.38 of libc.so.6, and that of the image ends at GLIBC_2.36"
        ]
    );
    let mut contained = open_mpi_world();
    contained.flags.files.contain = true;
    let of_contained = brought(&contained.plan().unwrap());
    assert!(of_contained.contains(&"/dev/infiniband < /dev/infiniband".to_owned()), "{of_contained:?}");
}

#[test]
fn a_library_that_the_image_cannot_load_is_refused() {
    let world = open_mpi_world();
    world.put_on_host("usr/lib/libmpi.so.40.30.4", &Made { requires: NEW, ..OPEN_MPI });
    let (why, hint) = world.refusal();
    assert_eq!(
        why,
        "\"/images/a.sif\": libmpi.so.40 needs GLIBC_2.38 of libc.so.6, and that of the image ends at GLIBC_2.36"
    );
    assert!(hint.starts_with("use an image of a newer distribution"), "{hint}");
    // A musl image has no such library at all.
    let world = open_mpi_world();
    fs::remove_file(world.image_files.path().join("usr/lib/libc.so.6")).unwrap();
    world.put_in_image("lib/ld-musl-x86_64.so.1", &PLAIN);
    assert_eq!(
        world.refusal().0,
        "\"/images/a.sif\": libmpi.so.40 needs libc.so.6, which the image does not have"
    );
}

#[test]
fn another_interface_is_refused_and_a_path_finds_the_right_one() {
    let mut world = open_mpi_world();
    fs::remove_file(world.image_files.path().join("usr/lib/libmpi.so.40")).unwrap();
    fs::remove_file(world.image_files.path().join("usr/lib/libmpi.so.40.20.1")).unwrap();
    world.put_in_image("opt/mpich/lib/libmpi.so.12", &Made { soname: "libmpi.so.12", ..MPICH });
    let (why, hint) = world.refusal();
    assert_eq!(
        why,
        "\"/images/a.sif\": the image's is MPICH 4.0.2 and the host's is Open MPI 4.1.4: programs of one cannot use the other"
    );
    assert!(hint.contains("the interface of MPICH (--mpi=PATH)"), "{hint}");
    // A prefix of its own comes whole, over the image's, whatever the two call it.
    world.put_on_host("opt/site/mpich/lib/libmpich.so.12", &MPICH);
    for path in ["/opt/site/mpich", "/opt/site/mpich/lib/libmpich.so.12"] {
        world.flags.mpi = Some(path.into());
        assert_eq!(
            brought(&world.plan().unwrap()),
            [
                "/opt/mpich/lib/libmpi.so.12 < /opt/site/mpich/lib/libmpich.so.12",
                "/.singularity.d/libs/libmpich.so.12 < /opt/site/mpich/lib/libmpich.so.12",
                "/opt/site/mpich < /opt/site/mpich",
            ]
        );
    }
    world.flags.mpi = None;
    world.config.mpi = Some("/opt/site/mpich".into());
    assert!(brought(&world.plan().unwrap()).is_empty());
    let world = world.with(&[("SKIFF_MPI", "1")]);
    assert_eq!(
        world.plan().unwrap().mounts.iter().filter(|mount| mount.because.origin() == "SKIFF_MPI").count(),
        4
    );
}

#[test]
fn an_older_one_does_where_the_program_uses_nothing_newer() {
    let mut world = open_mpi_world();
    world.put_in_image(
        "usr/lib/libmpi.so.40.20.1",
        &Made { symbols: &["MPI_Init", "MPI_Send", "MPI_Session_init", "ompi_mpi_comm_world"], ..OPEN_MPI },
    );
    let (why, hint) = world.refusal();
    assert_eq!(
        why,
        "\"/images/a.sif\": the host's Open MPI 4.1.4 lacks functions of the image's Open MPI 4.0.1: MPI_Session_init"
    );
    assert!(hint.starts_with("name the program itself"), "{hint}");
    let program = Made { needed: &["libmpi.so.40", "libc.so.6"], undefined: &["MPI_Init"], ..PLAIN };
    world.put_in_image("usr/bin/solver", &program);
    world.words = vec!["solver".into()];
    assert_eq!(brought(&world.plan().unwrap()).len(), 6);
    world.put_in_image("usr/bin/solver", &Made { undefined: &["MPI_Init", "MPI_Session_init"], ..program });
    assert_eq!(
        world.refusal().0,
        "\"/images/a.sif\": the program uses functions that the host's Open MPI 4.1.4 does not have: MPI_Session_init"
    );
}

#[test]
fn what_is_missing_is_told() {
    let mut world = open_mpi_world();
    world.flags.mpi = Some("/opt/none".into());
    let error = world.plan().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot find an MPI at \"/opt/none\" (--mpi=/opt/none): no such file or directory"
    );
    world.flags.mpi = Some("/usr/share".into());
    assert_eq!(
        world.plan().unwrap_err().to_string(),
        "cannot find an MPI library at \"/usr/share\" (--mpi=/usr/share)"
    );
    let mut nothing = super::world(&[], &[]).with(&[("MPI_HOME", "/opt/none")]);
    nothing.flags.mpi = Some(OsString::new());
    assert_eq!(
        nothing.refusal().0,
        "\"/images/a.sif\": the host has none (looked at: MPI_HOME, mpirun on PATH (none), the loader's directories)"
    );
    let world = open_mpi_world();
    fs::remove_file(world.image_files.path().join("usr/lib/libmpi.so.40")).unwrap();
    fs::remove_file(world.image_files.path().join("usr/lib/libmpi.so.40.20.1")).unwrap();
    assert_eq!(world.refusal().0, "\"/images/a.sif\": the image has none that it could replace");
}

#[test]
fn the_launcher_picks_the_kind_and_ranks_that_would_be_alone_are_told() {
    let started = |pairs: &[(&str, &str)]| {
        let mut world = open_mpi_world().with(pairs);
        world.flags.mpi = None;
        world.plan().unwrap().warnings
    };
    let hydra = &[("PMI_RANK", "0"), ("PMI_SIZE", "4"), ("PMI_FD", "6"), ("MPI_LOCALNRANKS", "4")];
    assert_eq!(
        started(hydra),
        [
            "each of the 4 ranks would be rank 0 of 1: the launcher offers PMI, and Open MPI 4.0.1 wants PMIx; start with srun \
          --mpi=pmix or the mpirun of Open MPI"
        ]
    );
    let own = &[("PMIX_NAMESPACE", "1"), ("PMIX_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "4")];
    assert!(started(own).is_empty());
    assert!(started(&[]).is_empty());
    let next = &[own.as_slice(), &[("PRTE_LAUNCHED", "1")]].concat();
    assert!(
        started(next)[0]
            .starts_with("each of the 4 ranks would be rank 0 of 1: Open MPI 4.0.1 does not know")
    );
    // Hydra on a host with both: its own library is taken, which this image has no use for.
    let world = open_mpi_world().with(&hydra[..]);
    world.put_on_host("usr/lib/libmpich.so.12", &MPICH);
    assert!(world.refusal().0.contains("the host's is MPICH 4.0.2"));
    // One rank tells for all.
    let second = hydra.map(|(name, value)| if name == "PMI_RANK" { (name, "1") } else { (name, value) });
    assert!(started(&second).is_empty());
}

#[test]
fn directories_of_the_hosts_mpi_stay_outside_unless_it_is_brought_in() {
    let pairs = &[("OPAL_PREFIX", "/opt/host"), ("OMPI_MCA_mca_base_component_path", "/usr/lib/pmix")];
    let mut world = open_mpi_world().with(pairs);
    world.flags.mpi = None;
    let names = |plan: &RunPlan| -> Vec<String> {
        let of = |name: &OsString| name.to_string_lossy().into_owned();
        plan.process
            .env
            .iter()
            .map(|(name, _)| of(name))
            .filter(|name| pairs.iter().any(|(one, _)| one == name))
            .collect()
    };
    let plan = world.plan().unwrap();
    assert!(names(&plan).is_empty());
    assert_eq!(plan.left_out.len(), 2);
    world.flags.mpi = Some(OsString::new());
    assert_eq!(names(&world.plan().unwrap()).len(), 2);
}

#[test]
fn libfabric_alone_brings_providers_or_the_library() {
    let mut world = open_mpi_world();
    world.flags.mpi = Some("libfabric".into());
    let fabric = Made { soname: "libfabric.so.1", defines: &["FABRIC_1.0", "FABRIC_1.6"], ..PLAIN };
    world.put_in_image("bin/sh", &PLAIN);
    assert_eq!(
        world.refusal().0,
        "\"/images/a.sif\": the image has no libfabric.so.1, so its MPI does not use it"
    );
    world.put_in_image("usr/lib/libfabric.so.1", &fabric);
    world.put_on_host(
        "usr/lib/libfabric.so.1",
        &Made { needed: &["libcxi.so.1", "libc.so.6"], ..fabric.clone() },
    );
    world.put_on_host("usr/lib/libcxi.so.1", &Made { soname: "libcxi.so.1", ..PLAIN });
    assert_eq!(
        brought(&world.plan().unwrap()),
        [
            "/usr/lib/libfabric.so.1 < /usr/lib/libfabric.so.1",
            "/.singularity.d/libs/libcxi.so.1 < /usr/lib/libcxi.so.1",
        ]
    );
    world.put_on_host("usr/lib/libfabric.so.1", &Made { defines: &["FABRIC_1.0"], ..fabric });
    assert_eq!(
        world.refusal().0,
        "\"/images/a.sif\": the host's libfabric.so.1 is older than the image's: it has no FABRIC_1.6"
    );
    world.put_on_host("opt/net/libcxi-fi.so", &Made { needed: &["libcxi.so.1", "libfabric.so.1"], ..PLAIN });
    let world = world.with(&[("FI_PROVIDER_PATH", "/opt/net")]);
    let plan = world.plan().unwrap();
    assert_eq!(
        brought(&plan)[..2],
        ["/opt/net < /opt/net", "/.singularity.d/libs/libcxi.so.1 < /usr/lib/libcxi.so.1"]
    );
    assert!(plan.process.env.iter().any(|(name, value)| name == "FI_PROVIDER_PATH" && value == "/opt/net"));
}

/// The loader and the C library of a host or an image, up to this version.
fn glibc<'a>(versions: &'a [&'a str]) -> [(&'static str, Made<'a>); 3] {
    let of = |soname| Made { soname, needed: &[], requires: &[], defines: versions, ..PLAIN };
    let loader = "ld-linux-x86-64.so.2";
    [
        ("lib64/ld-linux-x86-64.so.2", of(loader)),
        ("usr/lib/libc.so.6", of("libc.so.6")),
        ("usr/lib/libm.so.6", of("libm.so.6")),
    ]
}

const OLDER: &[&str] = &["GLIBC_2.34", "GLIBC_2.36"];
const NEWER: &[&str] = &["GLIBC_2.34", "GLIBC_2.36", "GLIBC_2.38", "GLIBC_2.41"];

#[test]
fn the_hosts_c_library_comes_whole_where_it_is_newer_needed_and_asked_for() {
    let world = || {
        let world = open_mpi_world();
        world.put_on_host("usr/lib/libmpi.so.40.30.4", &Made { requires: NEW, ..OPEN_MPI });
        for (path, made) in glibc(NEWER) {
            world.put_on_host(path, &made);
        }
        for (path, made) in glibc(OLDER) {
            world.put_in_image(path, &made);
        }
        fill(world.host_files.path(), &["usr/lib/gconv/"]);
        world
    };
    let mut asked = world();
    assert!(asked.refusal().1.contains("--mpi-glibc"), "{}", asked.refusal().1);
    asked.flags.mpi_glibc = true;
    let lines = brought(&asked.plan().unwrap());
    for line in [
        "/lib64/ld-linux-x86-64.so.2 < /lib64/ld-linux-x86-64.so.2",
        "/usr/lib/libc.so.6 < /usr/lib/libc.so.6",
        "/usr/lib/libm.so.6 < /usr/lib/libm.so.6",
        "/usr/lib/gconv < /usr/lib/gconv",
        "/usr/lib/libmpi.so.40.20.1 < /usr/lib/libmpi.so.40.30.4",
    ] {
        assert!(lines.contains(&line.to_owned()), "{line}: {lines:#?}");
    }
    // Not needed: nothing of it comes.
    asked.put_on_host("usr/lib/libmpi.so.40.30.4", &OPEN_MPI);
    assert!(brought(&asked.plan().unwrap()).iter().all(|line| !line.contains("libc.so.6")));
    // Not newer: it would be a step back for the image's own programs.
    let mut same = world();
    same.flags.mpi_glibc = true;
    for (path, made) in glibc(OLDER) {
        same.put_on_host(path, &made);
    }
    assert_eq!(
        same.refusal().0,
        "\"/images/a.sif\": libmpi.so.40 needs GLIBC_2.38 of libc.so.6, and that of the image ends at GLIBC_2.36; the image's \
         C library (GLIBC_2.36) is not older than the host's (GLIBC_2.36)"
    );
    // Without its loader it would be half of a C library.
    let mut half = world();
    half.flags.mpi_glibc = true;
    fs::remove_file(half.image_files.path().join("lib64/ld-linux-x86-64.so.2")).unwrap();
    assert!(half.refusal().0.ends_with("the loader of host or image is not where it usually is"));
}

#[test]
fn programs_of_the_mpi_5_interface_get_a_library_of_that_interface_alone() {
    let mut world = open_mpi_world();
    let abi = Made { soname: "libmpi_abi.so.0", symbols: &["MPI_Init", "MPI_Send"], ..PLAIN };
    world.put_in_image("opt/mpich/lib/libmpi_abi.so.0", &abi);
    world.put_in_image("usr/bin/solver", &Made { needed: &["libmpi_abi.so.0", "libc.so.6"], ..PLAIN });
    world.words = vec!["solver".into()];
    assert_eq!(
        world.refusal().0,
        "\"/images/a.sif\": the program needs libmpi_abi.so.0, the interface of MPI 5, and the host's is Open MPI 4.1.4"
    );
    world.put_on_host("opt/open-mpi-6/lib/libmpi_abi.so.0", &abi);
    world.flags.mpi = Some("/opt/open-mpi-6".into());
    let brought = brought(&world.plan().unwrap());
    assert_eq!(
        brought,
        [
            "/opt/mpich/lib/libmpi_abi.so.0 < /opt/open-mpi-6/lib/libmpi_abi.so.0",
            "/opt/open-mpi-6 < /opt/open-mpi-6"
        ]
    );
}

#[test]
fn the_mpi_of_a_loaded_module_comes_before_that_of_the_path() {
    for variable in ["MPI_HOME", "CRAY_MPICH_DIR", "I_MPI_ROOT", "EBROOTOPENMPI"] {
        let world = open_mpi_world();
        world.put_on_host("opt/module/lib/libmpi.so.40", &OPEN_MPI);
        let world = world.with(&[("PATH", "/usr/bin"), (variable, "/opt/module")]);
        let brought = brought(&world.plan().unwrap());
        assert_eq!(brought[0], "/usr/lib/libmpi.so.40.20.1 < /opt/module/lib/libmpi.so.40", "{variable}");
    }
}

#[test]
fn ranks_with_a_dev_of_their_own_have_the_devices_of_every_fabric() {
    let devices = ["dev/infiniband/", "dev/cxi0", "dev/xpmem", "dev/knem", "dev/hfi1_0", "dev/null"];
    let shown = |world: &World| -> Vec<String> {
        let plan = world.plan().unwrap();
        let targets = plan.mounts.iter().map(|mount| mount.target.0.display().to_string());
        let fabric = |path: &String| devices[..5].iter().any(|one| path[1..] == *one.trim_end_matches('/'));
        targets.filter(fabric).collect()
    };
    let mut world = open_mpi_world();
    fill(world.host_files.path(), &devices);
    world.flags.files.contain = true;
    let all = ["/dev/cxi0", "/dev/hfi1_0", "/dev/infiniband", "/dev/knem", "/dev/xpmem"];
    assert_eq!(shown(&world), all);
    // The image's own MPI, started by a launcher; not for a program by itself.
    world.flags.mpi = None;
    assert!(shown(&world).is_empty());
    let world = world.with(&[("PALS_RANKID", "3"), ("PALS_APID", "a")]);
    assert_eq!(shown(&world), all);
}
