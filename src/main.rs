//! Parse, call the command, print the error, exit: the only place that exits (a verb that a signal stopped dies of it).
#![no_main]

skiff::entry!(main_of_skiff);

fn main_of_skiff() -> i32 {
    skiff::commands::main(std::env::args_os())
}
