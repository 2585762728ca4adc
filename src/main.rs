//! Parse, call the command, print the error, exit: the only place that exits.

fn main() {
    std::process::exit(skiff::commands::main(std::env::args_os()));
}
