//! A configuration file, built line by line as a person would write it.

use super::origin::Origin;
use std::fmt::Write as _;

/// The usual caller's key; no reply, log or metric may ever hold it.
pub(crate) const KEY: &str = "sk-caller-canary-5b1f0c62";
/// The usual upstream's credential; no caller, log or metric may ever see it.
pub(crate) const UPSTREAM_KEY: &str = "sk-upstream-canary-9d37e8a4";

/// The text of a `gateway.yaml` in the making.
#[derive(Clone)]
pub(crate) struct Config {
    listen: String,
    admin: String,
    server: Vec<String>,
    keys: Vec<String>,
    upstreams: Vec<String>,
    routes: Vec<String>,
    sections: Vec<String>,
}

impl Config {
    /// Free ports on the loopback and one caller named `tester`, but no upstream yet.
    pub(crate) fn new() -> Self {
        Self {
            listen: "127.0.0.1:0".into(),
            admin: "127.0.0.1:0".into(),
            server: Vec::new(),
            keys: vec![format!("name: tester, secret: \"{KEY}\"")],
            upstreams: Vec::new(),
            routes: Vec::new(),
            sections: Vec::new(),
        }
    }

    /// One upstream named `main`, of provider `custom`, at this origin.
    pub(crate) fn to(origin: &Origin) -> Self {
        Self::new().upstream("main", &origin.base_url(), "")
    }

    /// Listens elsewhere.
    pub(crate) fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// Serves the admin plane elsewhere.
    pub(crate) fn admin(mut self, address: &str) -> Self {
        address.clone_into(&mut self.admin);
        self
    }

    /// A line of the `server` section.
    pub(crate) fn server(mut self, line: &str) -> Self {
        self.server.push(line.to_owned());
        self
    }

    /// Another caller, as the inside of a YAML flow mapping.
    pub(crate) fn key(mut self, fields: &str) -> Self {
        self.keys.push(fields.to_owned());
        self
    }

    /// No caller at all.
    pub(crate) fn without_keys(mut self) -> Self {
        self.keys.clear();
        self
    }

    /// Another upstream; `extra` is more of its YAML flow mapping. Without a word about it there,
    /// it is of provider `custom`, has [`UPSTREAM_KEY`] and is not probed.
    pub(crate) fn upstream(mut self, name: &str, base_url: &str, extra: &str) -> Self {
        let mut fields = format!("name: {name}, base_url: \"{base_url}\"");
        let usual = [
            ("provider:", "provider: custom".to_owned()),
            ("api_key:", format!("api_key: \"{UPSTREAM_KEY}\"")),
            ("health:", "health: off".to_owned()),
        ];
        for (mark, field) in usual {
            if !extra.contains(mark) {
                write!(fields, ", {field}").unwrap();
            }
        }
        if !extra.is_empty() {
            write!(fields, ", {extra}").unwrap();
        }
        self.upstreams.push(fields);
        self
    }

    /// A route, as the inside of a YAML flow mapping.
    pub(crate) fn route(mut self, fields: &str) -> Self {
        self.routes.push(fields.to_owned());
        self
    }

    /// One route over every upstream in turn that never runs out of retries.
    pub(crate) fn route_over(self, upstreams: &str) -> Self {
        self.route(&format!(
            "models: [\"*\"], upstreams: [{upstreams}], retry: {{ attempts: 3, budget: 1.0 }}"
        ))
    }

    /// A whole section as text.
    pub(crate) fn section(mut self, text: &str) -> Self {
        self.sections.push(text.to_owned());
        self
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("server:\n  listen: \"{}\"\n", self.listen);
        for line in &self.server {
            writeln!(text, "  {line}").unwrap();
        }
        writeln!(text, "admin:\n  listen: \"{}\"", self.admin).unwrap();
        for (name, items) in
            [("keys", &self.keys), ("upstreams", &self.upstreams), ("routes", &self.routes)]
        {
            if !items.is_empty() {
                writeln!(text, "{name}:").unwrap();
            }
            for item in items {
                writeln!(text, "  - {{ {item} }}").unwrap();
            }
        }
        for section in &self.sections {
            writeln!(text, "{section}").unwrap();
        }
        text
    }
}
