//! The identities that flags name: who may act for other namespaces, and who may read the debug pages.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::Principal;
use super::san::is_account_name;
use crate::names::is_dns_label;

/// Kubernetes' groups of ServiceAccounts: all, and with a colon and a namespace those of that namespace.
const ALL_ACCOUNTS: &str = "system:serviceaccounts";

/// One entry of a list: an account, or every account of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountPattern {
    namespace: String,
    /// `None` for every one.
    service_account: Option<String>,
}

/// An entry that is no account.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("it must be NAMESPACE/SERVICE-ACCOUNT, or NAMESPACE/* for every account of a namespace")]
pub struct PatternError;

impl FromStr for AccountPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (namespace, account) = text.split_once('/').ok_or(PatternError)?;
        let service_account = (account != "*").then(|| account.to_owned());
        let valid =
            is_dns_label(namespace) && service_account.as_deref().is_none_or(is_account_name);
        valid.then(|| Self { namespace: namespace.to_owned(), service_account }).ok_or(PatternError)
    }
}

/// As it is written.
impl fmt::Display for AccountPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account.as_deref().unwrap_or("*"))
    }
}

impl AccountPattern {
    fn fits(&self, identity: &Principal) -> bool {
        let account = self.service_account.as_deref();
        self.namespace == *identity.namespace
            && account.is_none_or(|account| account == &*identity.service_account)
    }
}

/// Who may claim any namespace (`--act-for`): gateways that serve all namespaces, the doctor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActFor(Vec<AccountPattern>);

impl ActFor {
    pub fn new(patterns: Vec<AccountPattern>) -> Self {
        Self(patterns)
    }

    pub fn has(&self, identity: &Principal) -> bool {
        self.0.iter().any(|pattern| pattern.fits(identity))
    }
}

/// An entry of [`Readers`]: an account, or one of Kubernetes' groups of accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReaderPattern {
    Account(AccountPattern),
    /// Every ServiceAccount.
    AllAccounts,
}

/// An entry that is neither.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "it must be NAMESPACE/SERVICE-ACCOUNT, NAMESPACE/*, or a group of ServiceAccounts as Kubernetes names it: \
     system:serviceaccounts:NAMESPACE, or system:serviceaccounts for all"
)]
pub struct ReaderError;

impl FromStr for ReaderPattern {
    type Err = ReaderError;

    fn from_str(text: &str) -> Result<Self, ReaderError> {
        if let Some(rest) = text.strip_prefix(ALL_ACCOUNTS) {
            if rest.is_empty() {
                return Ok(Self::AllAccounts);
            }
            let namespace = rest.strip_prefix(':').filter(|namespace| is_dns_label(namespace));
            let namespace = namespace.ok_or(ReaderError)?.to_owned();
            return Ok(Self::Account(AccountPattern { namespace, service_account: None }));
        }
        text.parse().map(Self::Account).map_err(|PatternError| ReaderError)
    }
}

impl fmt::Display for ReaderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(account) => account.fmt(f),
            Self::AllAccounts => f.write_str(ALL_ACCOUNTS),
        }
    }
}

/// Who may read the debug pages from another machine (`--debug-identities`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readers(Vec<ReaderPattern>);

impl Readers {
    pub fn new(patterns: Vec<ReaderPattern>) -> Self {
        Self(patterns)
    }

    pub fn has(&self, identity: &Principal) -> bool {
        self.0.iter().any(|pattern| match pattern {
            ReaderPattern::Account(account) => account.fits(identity),
            ReaderPattern::AllAccounts => true,
        })
    }
}
