//! Plans for the apps of an image.

use super::*;

#[test]
fn an_app_has_a_runscript_and_a_test_of_its_own() {
    let scripts = ["scif/apps/solver/scif/runscript", "scif/apps/solver/scif/test", "scif/apps/bare/bin/"];
    let mut world = world(&[], &scripts);
    fill(world.image_files.path(), &[".singularity.d/runscript", ".singularity.d/test"]);
    for (action, app, program) in [
        (Action::Run, None, "/.singularity.d/runscript"),
        (Action::Test, None, "/.singularity.d/test"),
        (Action::Run, Some("solver"), "/scif/apps/solver/scif/runscript"),
        (Action::Test, Some("solver"), "/scif/apps/solver/scif/test"),
        (Action::Exec, Some("bare"), "true"),
        (Action::Shell, Some("bare"), "/bin/bash"),
    ] {
        (world.action, world.flags.app) = (action, app.map(OsString::from));
        assert_eq!(world.plan().unwrap().process.argv[0], program);
        let start = &world.plan().unwrap().serve.start;
        let named = action != Action::Exec;
        assert!(!named || start[0].0 == Path::new(program), "{start:?}");
    }
    world.flags.app = Some("bare".into());
    world.action = Action::Test;
    assert_eq!(world.error(), "cannot run app \"bare\" of image \"/images/a.sif\": it has no test");
    world.action = Action::Run;
    let error = world.plan().unwrap_err();
    assert_eq!(error.to_string(), "cannot run app \"bare\" of image \"/images/a.sif\": it has no runscript");
    let hint = "name a program: skiff exec --app bare IMAGE PROGRAM";
    assert_eq!(error.hint, Some(format!("{hint}; the apps with a runscript are solver")));
    fs::remove_dir_all(world.image_files.path().join("scif/apps/solver")).unwrap();
    assert_eq!(world.plan().unwrap_err().hint.as_deref(), Some(hint));
    fill(world.image_files.path(), &scripts);
    for name in ["none", "..", "bare/bin", "/bin"] {
        world.flags.app = Some(name.into());
        let error = world.plan().unwrap_err();
        let expected = format!(
            "cannot use app {name:?} of image \"/images/a.sif\" (--app {name}): the image has no such app"
        );
        assert_eq!((error.to_string(), error.hint), (expected, Some("its apps are bare, solver".into())));
    }
}
