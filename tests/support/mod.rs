//! Real `whimbrel` processes on the real `/dev/kvm`, with guests that check themselves.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use qmp::{Client, ClientError};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Far beyond what anything takes, also on a busy machine: a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A folder of machines that know nothing of other tests'.
pub struct Host {
    folder: tempfile::TempDir,
    program: PathBuf,
    hook: Option<&'static str>,
    /// Where somebody wants to be told of its machines' processes.
    supervisor: Option<PathBuf>,
}

impl Host {
    pub fn new() -> Self {
        assert!(
            std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok(),
            "these tests need /dev/kvm"
        );
        let program = env!("CARGO_BIN_EXE_whimbrel").into();
        Self { folder: tempfile::tempdir().unwrap(), program, hook: None, supervisor: None }
    }

    /// Its machines and commands are of this program from now on.
    pub fn runs(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// A host whose programs damage one thing in each motion (feature `mutate`).
    pub fn with_mutation(mutation: &'static str) -> Self {
        Self { hook: Some(mutation), ..Self::new() }
    }

    /// A command of `whimbrel`, which knows only this host's machines.
    pub fn whimbrel(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("WHIMBREL_RUNTIME_DIR", self.folder.path())
            .env_remove("WHIMBREL_LOG")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        if let Some(mutation) = self.hook {
            command.env("WHIMBREL_TEST_HOOK", mutation);
        }
        if let Some(supervisor) = &self.supervisor {
            command.env("NOTIFY_SOCKET", supervisor);
        }
        command
    }

    /// Plays the part of a supervisor of all machines that are started from now on.
    pub fn supervised(&mut self) -> UnixDatagram {
        let path = self.folder().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        self.supervisor = Some(path);
        socket
    }

    /// Where its machines' sockets are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The same, where this script was run before, in a mount namespace of its own. It ends by running
    /// what it was given, or something that does.
    pub fn within(&self, script: &str, arguments: &[&str]) -> Command {
        let whimbrel = self.whimbrel(arguments);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", script, "sh"]);
        command.arg(whimbrel.get_program()).args(whimbrel.get_args()).stdin(Stdio::null());
        for (key, value) in whimbrel.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command
    }

    /// Runs a command to its end, whatever that is.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.whimbrel(arguments).output().unwrap()
    }

    /// Runs a command that has to succeed, and gives what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "whimbrel {arguments:?}: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Runs a command that has to fail with this status, and gives what it said.
    pub fn fails(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(status), "whimbrel {arguments:?}\n{text}");
        text
    }

    /// Starts a machine in the foreground of a process of its own.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Machine {
        self.hold(&["run"], name, arguments)
    }

    /// Starts a machine whose guest comes out of a file, and waits until it is here.
    pub fn restore(&self, name: &str, file: &str, arguments: &[&str]) -> Machine {
        let machine = self.begin_restore(name, file, arguments);
        let state = if arguments.contains(&"--paused") { "paused" } else { "running" };
        self.wait_for_state(name, state);
        machine
    }

    /// The same, without waiting.
    pub fn begin_restore(&self, name: &str, file: &str, arguments: &[&str]) -> Machine {
        self.hold(&["restore", file], name, arguments)
    }

    fn hold(&self, verb: &[&str], name: &str, arguments: &[&str]) -> Machine {
        let socket = self.folder.path().join(format!("{name}.console"));
        let console = format!("unix:{}", socket.display());
        let mut all = [verb, &["--name", name, "--console", &console]].concat();
        all.extend_from_slice(arguments);
        let machine = self.spawn(name, &all);
        machine.listen(socket);
        machine
    }

    /// Starts a process that holds a machine, or will.
    fn spawn(&self, name: &str, arguments: &[&str]) -> Machine {
        let log = self.folder.path().join(format!("{name}.log"));
        let open = || std::fs::File::options().append(true).create(true).open(&log).unwrap();
        let process = self.whimbrel(arguments).stdout(open()).stderr(open()).spawn().unwrap();
        Machine {
            name: name.to_owned(),
            process,
            log,
            console: self.folder.path().join(format!("{name}.console")),
            said: Arc::default(),
            typed: Arc::default(),
        }
    }

    /// Starts a machine with the self-checking guest, and waits until it has written all its pages.
    pub fn selfcheck(&self, name: &str, arguments: &[&str]) -> Machine {
        let mut all = vec!["--guest", "selfcheck"];
        all.extend_from_slice(arguments);
        let machine = self.start(name, &all);
        machine.wait_for("CHECK ok", |line| {
            line.contains("scope=passing") && !line.contains("rounds=0")
        });
        machine
    }

    /// Starts a machine that waits for a guest, and says where.
    pub fn incoming(&self, name: &str, arguments: &[&str]) -> (Machine, String) {
        let mut all = vec!["--incoming", "tcp:127.0.0.1:0"];
        all.extend_from_slice(arguments);
        let machine = self.start(name, &all);
        let address = wait("a machine that waits", || {
            self.machines().into_iter().find(|m| m["name"] == name)?["incoming"]
                .as_str()
                .map(str::to_owned)
        });
        (machine, address)
    }

    /// Starts a process that waits at a socket for a machine to take over, and waits until it does.
    pub fn successor(&self, name: &str, socket: &Path) -> Machine {
        let waits = format!("update:unix:{}", socket.display());
        let arguments = ["run", "--incoming", &waits, "--log", "whimbrel=debug"];
        let machine = self.spawn(name, &arguments);
        wait("a process that waits", || socket.exists().then_some(()));
        machine
    }

    /// All machines, as `list` shows them.
    pub fn machines(&self) -> Vec<Value> {
        let text = self.ok(&["list", "--json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The run state of a machine.
    pub fn state(&self, name: &str) -> String {
        let machines = self.machines();
        let machine = machines.iter().find(|m| m["name"] == name);
        machine.map_or("gone", |m| m["status"].as_str().unwrap_or("silent")).to_owned()
    }

    pub fn wait_for_state(&self, name: &str, state: &str) {
        wait(&format!("{name} to be {state}"), || (self.state(name) == state).then_some(()));
    }

    /// What `status` says of the motion of a machine.
    pub fn motion(&self, name: &str) -> Value {
        let status: Value = serde_json::from_str(&self.ok(&["status", name, "--json"])).unwrap();
        status["migration"].clone()
    }

    pub fn wait_for_motion(&self, name: &str, wanted: &str) {
        wait(&format!("the motion of {name} to be {wanted}"), || {
            (self.motion(name)["status"] == wanted).then_some(())
        });
    }

    /// Moves a machine, and gives the report.
    pub fn migrate(&self, name: &str, to: &str, more: &[&str]) -> Value {
        let mut all = vec!["migrate", name, to, "--json"];
        all.extend_from_slice(more);
        let text = self.ok(&all);
        let last = text.lines().last().unwrap();
        let report: Value = serde_json::from_str(last).unwrap();
        report
    }

    /// Begins to move a machine, for tests in which something happens meanwhile.
    pub fn begin_migrate(&self, name: &str, to: &str, more: &[&str]) -> Child {
        self.whimbrel(&[&["migrate", name, to, "--json"], more].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// The guest of `source` goes on there, and moves to a destination that does it no harm.
    pub fn goes_on(&self, source: &Machine) {
        let name = &source.name;
        self.wait_for_state(name, "running");
        source.check_all();
        let (destination, to) = self.incoming("after", &[]);
        assert_eq!(self.migrate(name, &to, &[])["status"], "completed");
        destination.check_all();
    }

    /// Has a machine carry out one QMP command, without a process in between.
    pub fn ask(
        &self,
        name: &str,
        command: &str,
        arguments: impl Into<Option<Value>>,
    ) -> Result<Value, ClientError> {
        let mut client = Client::connect(&self.folder().join(format!("{name}.sock")))?;
        client.execute(command, arguments.into(), Some(PATIENCE))
    }

    /// What a machine says of itself, if its process is there to say anything.
    pub fn view(&self, name: &str) -> Option<Value> {
        self.ask(name, "x-whimbrel-query-machine", None).ok()
    }

    /// Sends one QMP command.
    pub fn qmp(&self, name: &str, command: &str, arguments: &str) -> Output {
        self.run(&["qmp", name, command, arguments])
    }
}

/// Asks until there is an answer.
pub fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process that holds a machine. It is killed when the value is dropped.
pub struct Machine {
    pub name: String,
    process: Child,
    log: PathBuf,
    console: PathBuf,
    said: Arc<Mutex<String>>,
    typed: Arc<Mutex<Option<UnixStream>>>,
}

impl Machine {
    /// Connects to its console as soon as there is one (a machine that waits has none yet), and
    /// reads it from then on.
    fn listen(&self, socket: PathBuf) {
        let (said, typed) = (self.said.clone(), self.typed.clone());
        thread::spawn(move || {
            let deadline = Instant::now() + 2 * PATIENCE;
            let mut stream = loop {
                match UnixStream::connect(&socket) {
                    Ok(stream) => break stream,
                    Err(_) if Instant::now() < deadline => {
                        thread::sleep(Duration::from_millis(5));
                    }
                    Err(_) => return,
                }
            };
            *typed.lock().unwrap() = stream.try_clone().ok();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                said.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
    }

    /// All that its guest has said here.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// The same, by whole lines.
    pub fn lines(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        whole.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// What the process itself has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line that begins so and is as wanted.
    pub fn wait_for(&self, begin: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_after(0, begin, wanted)
    }

    fn wait_after(&self, skip: usize, begin: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines();
            let found = lines.iter().skip(skip).find(|l| l.starts_with(begin) && wanted(l));
            if let Some(line) = found {
                return line.clone();
            }
            if Instant::now() >= deadline {
                let tail: Vec<_> = lines.iter().rev().take(8).rev().collect();
                panic!(
                    "{}: no line `{begin}…` came in {PATIENCE:?}; the last were {tail:#?}\nlog: {}",
                    self.name,
                    self.log()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn type_byte(&self, byte: u8) {
        wait("a console to type at", || self.typed.lock().unwrap().is_some().then_some(()));
        let mut typed = self.typed.lock().unwrap();
        typed.as_mut().unwrap().write_all(&[byte]).unwrap();
    }

    /// Has the guest check every page, and requires that all is well.
    pub fn check_all(&self) {
        let line = self.full_check();
        assert!(
            line.starts_with("CHECK ok") && line.contains("faults=0"),
            "{}: {line}\n{:#?}",
            self.name,
            self.faults()
        );
    }

    /// Has the guest check every page, and gives its answer.
    pub fn full_check(&self) -> String {
        let before = self.lines().len();
        self.type_byte(b'c');
        self.wait_after(before, "CHECK", |line| line.contains("scope=full"))
    }

    /// The faults that the guest has reported here.
    pub fn faults(&self) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.starts_with("FAULT")).collect()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Stops the process where it is, and returns when all of it stands still, or has ended.
    pub fn freeze(&self) {
        freeze(Pid::from_child(&self.process));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Where its console is.
    pub fn console(&self) -> &Path {
        &self.console
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn kill(&mut self) {
        // SIGKILL to a child that has not been waited for: the pid is still its own.
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Waits for the process to end by itself, and gives its exit status.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        wait("a process to end", || self.process.try_wait().unwrap()).code()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {}: its guest's last lines", self.name);
            self.lines().iter().rev().take(12).rev().for_each(|line| eprintln!("{line}"));
            eprintln!("--- {}: its log\n{}", self.name, self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Stops a process where it is, and returns when all of it stands still, or has ended.
pub fn freeze(pid: Pid) {
    kill_process(pid, Signal::STOP).unwrap();
    let state = |path: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/{path}")).unwrap_or_default();
        // What follows the name, which is in brackets.
        stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next())
    };
    wait("a process to stand still", || {
        // A process that is about to become another program forgets it: execve(2) ends all other threads, and a
        // stop that was under way with them (Linux `kernel/signal.c`, zap_other_threads).
        let _ = kill_process(pid, Signal::STOP);
        // One that has ended may have threads of the kernel left for a while.
        let has_ended = state("stat").is_none_or(|state| "ZX".contains(state));
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Some(()) };
        let stands = |task: std::fs::DirEntry| {
            let path = format!("task/{}/stat", task.file_name().display());
            state(&path).is_none_or(|state| "TZX".contains(state))
        };
        (has_ended || tasks.map_while(Result::ok).all(stands)).then_some(())
    });
}

/// Makes sure that so many huge pages are free, where this process may say so.
pub fn huge_pages(count: u64) -> bool {
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let read = |name: &str| -> u64 {
        std::fs::read_to_string(format!("{pool}/{name}"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    };
    let free = || read("free_hugepages").saturating_sub(read("resv_hugepages"));
    if free() < count {
        let wanted = read("nr_hugepages") + count - free();
        let _ = std::fs::write(format!("{pool}/nr_hugepages"), wanted.to_string());
    }
    free() >= count
}

/// Makes sure that shared memory may have transparent huge pages.
pub fn transparent_huge_pages() -> bool {
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let allowed = || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        ["[advise]", "[always]", "[within_size]"].iter().any(|word| text.contains(word))
    };
    if !allowed() {
        let _ = std::fs::write(path, "advise");
    }
    allowed()
}
