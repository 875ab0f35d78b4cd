//! Compiles the plugins in the box: a workspace of its own, for `wasm32-unknown-unknown`, each then made a component.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const TARGET: &str = "wasm32-unknown-unknown";

/// Folders of the plugins in the box, below `plugins`; the crate is named like the folder.
const IN_BOX: &[&str] = &["runtimes/oci", "schedulers/bin-pack", "storage/local-path"];

/// A plugin for the tests, which is not in the box.
const FIXTURE: &str = "fixtures/misbehaving";

/// Debian's compiler with the standard library's source, for machines whose rustup can't bring the target.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LINKER: &str = "/usr/bin/wasm-ld-22";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: the plugins in the box can't be built: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo gave no OUT_DIR")?);
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo gave no CARGO_MANIFEST_DIR")?);
    let plugins = here.join("../../plugins");
    watch(&plugins).map_err(|error| format!("look through {}: {error}", plugins.display()))?;
    println!("cargo::rerun-if-changed=build.rs");

    // Beside the profiles of the outer build, so that all of them share it: it is the same for each.
    let target = out.ancestors().nth(4).unwrap_or(&out).join("guests");
    compile(&plugins, &target)?;
    let built = target.join(TARGET).join("release");
    let mut list = String::from("pub(crate) const PLUGINS: &[InBox] = &[\n");
    for folder in IN_BOX {
        let name = Path::new(folder).file_name().unwrap_or_default().to_string_lossy();
        let module = built.join(format!("{}.wasm", name.replace('-', "_")));
        let component = out.join(format!("{name}.wasm"));
        let manifest = out.join(format!("{name}.toml"));
        componentize(&module, &component).map_err(|reason| format!("plugin {name}: {reason}"))?;
        fs::copy(plugins.join(folder).join("plugin.toml"), &manifest)
            .map_err(|error| format!("plugin {name}: copy its plugin.toml: {error}"))?;
        let _ = writeln!(
            list,
            "    InBox {{ manifest: include_str!({manifest:?}), component: include_bytes!({component:?}) }},"
        );
    }
    list.push_str("];\n");
    let fixture = out.join("misbehaving.wasm");
    componentize(&built.join("misbehaving.wasm"), &fixture).map_err(|reason| format!("{FIXTURE}: {reason}"))?;
    println!("cargo::rustc-env=GANTRY_MISBEHAVING_COMPONENT={}", fixture.display());
    fs::write(out.join("in_box.rs"), list).map_err(|error| format!("write in_box.rs: {error}"))
}

/// Has the script run again when a source changes: each file and folder, without what was built.
fn watch(folder: &Path) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                watch(&path)?;
            }
        } else {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    Ok(())
}

fn compile(plugins: &Path, target: &Path) -> Result<(), String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut cargo = if has_target(&rustc) {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        inherit_nothing(&mut cargo);
        cargo.arg("build").env("RUSTC", rustc);
        cargo
    } else if Path::new(DEBIAN_LINKER).exists() {
        let mut cargo = Command::new(DEBIAN_CARGO);
        inherit_nothing(&mut cargo);
        cargo
            .args(["build", "-Zbuild-std=std,panic_abort"])
            .env("RUSTC", DEBIAN_RUSTC)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER);
        cargo
    } else {
        return Err(format!(
            "the target {TARGET} is missing: `rustup target add {TARGET}`, or install Debian's rustc-web, cargo-web, \
             rust-web-src, libstd-rust-web-dev and lld-22"
        ));
    };
    cargo
        .args(["--release", "--locked", "--target", TARGET])
        .arg("--manifest-path")
        .arg(plugins.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .current_dir(plugins);
    for folder in IN_BOX.iter().chain([&FIXTURE]) {
        cargo.arg("--package").arg(Path::new(folder).file_name().unwrap_or_default());
    }
    let output = cargo.output().map_err(|error| format!("start cargo: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("cargo ended with {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn has_target(rustc: &std::ffi::OsStr) -> bool {
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    output.is_ok_and(|output| {
        output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).exists()
    })
}

/// Takes out of the environment what the outer build set for itself: its flags, wrappers (clippy's among them), target
/// and profile. Where registries and caches are stays.
fn inherit_nothing(cargo: &mut Command) {
    let kept = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let cargos = text.starts_with("CARGO") && !kept.iter().any(|prefix| text.starts_with(prefix));
        let rusts = matches!(
            &*text,
            "RUSTFLAGS"
                | "RUSTDOCFLAGS"
                | "RUSTC"
                | "RUSTC_WRAPPER"
                | "RUSTC_WORKSPACE_WRAPPER"
                | "RUSTC_LINKER"
                | "RUSTDOC"
        );
        let scripts = matches!(&*text, "TARGET" | "HOST" | "PROFILE" | "OPT_LEVEL" | "DEBUG" | "NUM_JOBS" | "OUT_DIR")
            || text.starts_with("DEP_")
            || text.starts_with("CLIPPY_");
        if cargos || rusts || scripts {
            cargo.env_remove(&name);
        }
    }
}

fn componentize(module: &Path, component: &Path) -> Result<(), String> {
    let bytes = fs::read(module).map_err(|error| format!("read {}: {error}", module.display()))?;
    let encoded = wit_component::ComponentEncoder::default()
        .module(&bytes)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|error| format!("it can't be made a component: {error:#}"))?;
    fs::write(component, encoded).map_err(|error| format!("write {}: {error}", component.display()))
}
