//! Which HTTP proxy is asked: the one named on the command line, else the one of the environment, as other programs do.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use dht_driver::Proxy;
use serde::{Deserialize, Serialize};

/// What `--proxy` says. It may hold a password, so neither its debug output nor an error shows it, and it is looked at by
/// [`ProxyText::check`] instead of by clap, which would.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ProxyText(String);

impl FromStr for ProxyText {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for ProxyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl ProxyText {
    /// Whether it can be meant.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.proxy().map(|_| ())
    }

    /// `none` is no proxy, whatever the environment says.
    fn proxy(&self) -> anyhow::Result<Option<Proxy>> {
        if self.0 == "none" {
            return Ok(None);
        }
        self.0.parse().map(Some).context("--proxy cannot be used")
    }
}

/// The proxy to ask, if any, without what `no_proxy` takes out.
pub(crate) fn choose(said: Option<&ProxyText>, env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Proxy>> {
    let first = |names: [&'static str; 2]| {
        names.into_iter().find_map(|name| env(name).filter(|value| !value.is_empty()).map(|value| (name, value)))
    };
    let proxy = match said {
        Some(text) => text.proxy()?,
        None => first(["https_proxy", "HTTPS_PROXY"])
            .map(|(name, value)| value.parse::<Proxy>().with_context(|| format!("{name} cannot be used")))
            .transpose()?,
    };
    let except = first(["no_proxy", "NO_PROXY"]).map(|(_, value)| value).unwrap_or_default();
    Ok(proxy.map(|proxy| proxy.except(&except)))
}

/// A variable of the environment.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(said: Option<&str>, env: &[(&str, &str)]) -> anyhow::Result<Option<String>> {
        let said = said.map(|text| ProxyText(text.to_owned()));
        let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Ok(choose(said.as_ref(), env)?.map(|proxy| proxy.to_string()))
    }

    #[test]
    fn the_command_line_goes_before_the_environment() {
        let env = [("https_proxy", "http://lower:1"), ("HTTPS_PROXY", "http://upper:1")];
        assert_eq!(chosen(Some("http://said:1"), &env).unwrap().as_deref(), Some("said:1"));
        assert_eq!(chosen(Some("none"), &env).unwrap(), None);
        assert_eq!(chosen(None, &env).unwrap().as_deref(), Some("lower:1"));
        assert_eq!(chosen(None, &env[1..]).unwrap().as_deref(), Some("upper:1"));
        assert_eq!(chosen(None, &[("https_proxy", "")]).unwrap(), None);
        assert_eq!(chosen(None, &[]).unwrap(), None);
    }

    #[test]
    fn no_error_and_no_debug_output_shows_a_password() {
        for (said, env) in
            [(Some("socks5://u:secret@p"), None), (None, Some(("https_proxy", "http://u:secret@p/path")))]
        {
            let env: Vec<_> = env.into_iter().collect();
            let error = format!("{:#}", chosen(said, &env).unwrap_err());
            assert!(!error.contains("secret") && error.contains("cannot be used"), "{error}");
        }
        assert_eq!(format!("{:?}", ProxyText("http://u:secret@p".to_owned())), "…");
    }
}
