//! The demo simulation of `definitions/heat`, from a Debian image: the compiler is the image's, the source and
//! the program are the current directory's, and the result is compared with the recorded one.

use crate::harness::{Need, Place, able, debian_image};

#[test]
fn heat_conduction_is_compiled_and_run_from_a_debian_image() {
    if !able(&[Need::Userns, Need::Fuse, Need::Debian]) {
        return;
    }
    let place = Place::new("demo");
    let image = debian_image();
    let image = image.to_str().expect("the path is text");
    place.write("heat.c", include_str!("../../definitions/heat/heat.c"));
    place.run(["exec", image, "cc", "-O2", "-o", "simulation", "heat.c", "-lm"]).ok();
    let printed = place.run(["exec", image, "./simulation", "255", "100"]).ok();
    assert_eq!(printed, "grid 255 x 255, 100 steps\ntemperature at the centre 0.673828, exact 0.673825\n");
    let profile =
        std::fs::read_to_string(place.work("profile.txt")).expect("the simulation wrote its profile");
    assert_eq!(profile, include_str!("../../definitions/heat/profile.txt"));
}
