//! Any bytes as a definition: refused with places inside it, or understood, planned and printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff::build::definition::{Given, MISTAKES_SHOWN, Mistakes, parse};
use skiff::build::plan::plan_build;

fuzz_target!(|bytes: &[u8]| {
    let given =
        ["A", "B"].map(|name| Given { name: name.into(), value: "1 *\n%post".into(), origin: String::new() });
    let lines = bytes.split(|byte| *byte == b'\n').count();
    let check = |found: &Mistakes| {
        assert!(found.list.len() <= MISTAKES_SHOWN);
        for mistake in &found.list {
            let line = mistake.position.map_or(1, |position| position.line);
            assert!(line >= 1 && line as usize <= lines, "line {line} of {lines}");
        }
        let shown = found.show("a.def");
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    };
    match parse(bytes, &given) {
        Err(mistakes) => {
            assert!(mistakes.count() > 0);
            check(&mistakes);
        }
        Ok(definition) => {
            check(&definition.warnings);
            let heads = bytes.windows(10).filter(|word| word.eq_ignore_ascii_case(b"bootstrap:")).count();
            let plan = plan_build(&definition, "a.def");
            assert!(plan.stages.len() <= heads.max(1), "a value made a stage");
            assert!(!plan.to_string().is_empty());
            assert!(serde_json::to_string(&plan).is_ok());
        }
    }
});
