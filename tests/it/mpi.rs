//! `skiff mpi` and `--mpi` where there is nothing to bring in; with real MPIs it is `scripts/mpi` that looks.

use std::fs;

use crate::harness::Place;

#[test]
fn an_image_without_mpi_is_told_and_nothing_is_started() {
    let place = Place::new("mpi-none");
    fs::create_dir_all(place.work("tree/usr/lib")).expect("a directory can be made");
    // What is no library is none, whatever its name.
    place.write("tree/usr/lib/libmpi.so.40", "not a library");
    place.build("a.sif", &place.work("tree"));
    let said = place.run(["mpi", "a.sif"]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(said.stdout.contains("image      no MPI\n"), "{said:?}");
    assert!(said.stdout.contains("--mpi      does not work: the "), "{said:?}");
    // A program that is named is answered for, whatever it is.
    let said = place.run(["mpi", "a.sif", "/bin/none"]);
    assert!(said.stdout.contains("program    \"/bin/none\" is not there, or a script"), "{said:?}");
    let json = place.run(["mpi", "--json", "a.sif"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON is printed");
    assert_eq!((json.status.code(), value["works"].as_bool()), (Some(1), Some(false)));
    let error = place.run(["exec", "--mpi", "a.sif", "true"]).fails(255);
    assert!(error.contains("cannot use the host's MPI in the image") && error.contains("hint: "), "{error}");
    let plan = place.run(["exec", "--dry-run", "--mpi-glibc", "a.sif", "true"]);
    assert!(plan.stdout.contains("warning: --mpi-glibc has no effect without --mpi\n"), "{plan:?}");
    let error = place.run(["mpi", "--mpi=/nowhere", "a.sif"]).fails(255);
    assert!(error.contains("cannot find an MPI at \"/nowhere\" (--mpi=/nowhere)"), "{error}");
}
