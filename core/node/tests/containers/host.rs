//! Stands in for the `gantry` binary in tests: it runs the mechanism's internal commands, and as `agent FOLDER IMAGES
//! ID` it is an agent that starts the container whose bundle is read from standard input, to be killed.

use std::process::ExitCode;

use gantry_node::mechanism::{Mechanism, MechanismOptions, run_internal_command};
use gantry_plugin_host::capability::{OciBundle, Stdio};

fn main() -> ExitCode {
    if let Some(code) = run_internal_command(std::env::args_os()) {
        return code;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let [_, command, folder, images, id, log] = arguments.as_slice() else {
        eprintln!("usage: agent FOLDER IMAGES ID LOG < config.json");
        return ExitCode::FAILURE;
    };
    assert_eq!(command, "agent");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = std::io::read_to_string(std::io::stdin()).expect("config.json");
        let mechanism = Mechanism::open(folder, MechanismOptions::new(images)).await.expect("the mechanism opens");
        let stdio = Stdio { log_path: Some(log.clone()), stdin: false, stdin_once: false, tty: false };
        mechanism.write(id, &config).await.expect("the bundle is written");
        mechanism.create(id, &stdio).await.expect("the container is created");
        mechanism.start(id).await.expect("the container starts");
        println!("started");
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}
