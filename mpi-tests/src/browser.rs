//! Debian's Chromium without a window, driven through its DevTools protocol: pages are opened in it as a person would.

use base64::Engine;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

/// How long the browser may take for one thing.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one tab, and a profile of its own that goes with it.
pub struct Browser {
    child: Child,
    profile: PathBuf,
    socket: WebSocket<TcpStream>,
    session: String,
    next: u64,
    /// What happened since it was last asked for.
    events: Vec<Value>,
}

/// What a page did wrong, or asked for.
#[derive(Debug, Default)]
pub struct Trace {
    /// Errors on the console, exceptions, refusals of the content security policy.
    pub errors: Vec<String>,
    /// Every address that was asked for.
    pub requests: Vec<String>,
}

/// Whether there is a Chromium here; else why not.
pub fn obstacle() -> Option<String> {
    let found = Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.err().map(|error| format!("chromium cannot be started: {error}"))
}

impl Browser {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start() -> Self {
        let profile = std::env::temp_dir().join(format!(
            "lunasa-browser-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut command = Command::new("chromium");
        command.args([
            "--headless=new",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ]);
        command.args(["--disable-extensions", "--disable-background-networking", "--remote-debugging-port=0"]);
        if rustix::process::geteuid().is_root() {
            command.arg("--no-sandbox");
        }
        command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("chromium starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its stderr is piped")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("DevTools listening on ").map(str::to_owned));
        let address = address.expect("chromium says where it listens");
        // Its further words are read, so that it does not wait for a reader.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let host = address.trim_start_matches("ws://").split('/').next().expect("an address has a host");
        let stream = TcpStream::connect(host).expect("chromium listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time limit");
        let (socket, _) = tungstenite::client(&address, stream).expect("chromium speaks WebSocket");
        let mut browser = Self { child, profile, socket, session: String::new(), next: 0, events: vec![] };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().expect("a session has an id").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// One call of the protocol, and its result.
    ///
    /// # Panics
    /// When the browser refuses it or does not answer.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.ask(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// As [`Browser::call`]; what the browser refuses is an error.
    fn ask(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        self.socket.send(Message::text(message.to_string())).expect("chromium takes messages");
        loop {
            let message = self.socket.read().unwrap_or_else(|error| panic!("{method}: no answer: {error}"));
            let Ok(text) = message.to_text() else { continue };
            let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
            if value["id"] == self.next {
                let error = value["error"].clone();
                return if error.is_null() { Ok(value["result"].clone()) } else { Err(error) };
            }
            self.events.push(value);
        }
    }

    /// What an expression in the page comes to; nothing when it makes the page go to another before it was answered, as a
    /// click on a link may.
    ///
    /// # Panics
    /// When it throws.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = match self.ask("Runtime.evaluate", asked) {
            Err(error) if error["message"].as_str().is_some_and(|words| words.contains("navigated")) => {
                return Value::Null;
            }
            Err(error) => panic!("{expression}: {error}"),
            Ok(result) => result,
        };
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true. A page that is just going away is asked again.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn until(&mut self, expression: &str) {
        let began = Instant::now();
        loop {
            let asked = json!({ "expression": format!("Boolean({expression})"), "returnByValue": true });
            if self.call("Runtime.evaluate", asked)["result"]["value"] == true {
                return;
            }
            if began.elapsed() > PATIENCE {
                let text = self.value("document.documentElement.outerHTML");
                panic!("never: {expression}\nin {text}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Opens a page, and waits until all of it is there.
    ///
    /// # Panics
    /// When it does not come.
    pub fn open(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({ "url": url }));
        assert!(gone["errorText"].is_null(), "{url}: {gone}");
        self.until("document.readyState === 'complete' && location.protocol === 'http:'");
    }

    /// Whether scripts of pages run from now on.
    pub fn set_scripts(&mut self, on: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({ "value": !on }));
    }

    /// The size of the window, and whether its user likes it dark.
    pub fn set_look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [scheme] }));
    }

    /// The page as a picture (PNG), from its top, `most` pixels high at most.
    pub fn picture(&mut self, most: u32) -> Vec<u8> {
        let size = self.value("[document.documentElement.clientWidth, document.documentElement.scrollHeight]");
        let height = size[1].as_u64().unwrap_or(0).min(most.into());
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": height, "scale": 1 });
        let shot = self
            .call("Page.captureScreenshot", json!({ "format": "png", "clip": clip, "captureBeyondViewport": true }));
        let data = shot["data"].as_str().expect("a picture has data");
        base64::engine::general_purpose::STANDARD.decode(data).expect("a picture is base64")
    }

    /// What went wrong and what was asked for since this was last called.
    pub fn trace(&mut self) -> Trace {
        // Whatever is under way comes before the answer to this.
        self.value("1");
        let mut trace = Trace::default();
        for event in self.events.drain(..) {
            let parameters = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => {
                    trace.requests.push(parameters["request"]["url"].as_str().unwrap_or_default().to_owned());
                }
                "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
                    trace.errors.push(parameters["entry"].to_string());
                }
                "Runtime.exceptionThrown" => trace.errors.push(parameters.to_string()),
                "Runtime.consoleAPICalled" if parameters["type"] == "error" => {
                    trace.errors.push(parameters.to_string())
                }
                _ => {}
            }
        }
        trace
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helpers end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
