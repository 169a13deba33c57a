//! Name servers, each asked by itself, and the lookup of a name under the search list.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::resolv::ResolvConf;

/// A question is asked again after this: one lost packet is not a silent server.
const RETRY_INTERVAL: Duration = Duration::from_millis(400);

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// None if the name exists but has no address of this kind.
    Addresses(Vec<IpAddr>),
    NoSuchName,
    /// It will not, or cannot, answer: the code as `dig` spells it.
    Error(&'static str),
}

/// Why a server said nothing that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum QueryError {
    Timeout,
    Refused,
    Unreachable(String),
    Malformed(String),
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer"),
            Self::Refused => f.write_str("refused: nothing listens there"),
            Self::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            Self::Malformed(why) => write!(f, "the answer is no DNS: {why}"),
        }
    }
}

impl From<io::Error> for QueryError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

/// Asks one server for one kind of address; by UDP, and by TCP if the answer does not fit.
pub(super) async fn query(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    limit: Duration,
) -> Result<Reply, QueryError> {
    let question = async {
        let name = Name::from_utf8(format!("{name}.")).map_err(malformed)?;
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, kind));
        let bytes = message.to_vec().map_err(malformed)?;
        let mut answer = by_udp(server, &message, &bytes).await?;
        if answer.metadata.truncation {
            answer = by_tcp(server, &bytes).await?;
        }
        Ok(read(&answer, kind))
    };
    timeout(limit, question).await.unwrap_or(Err(QueryError::Timeout))
}

async fn by_udp(server: SocketAddr, asked: &Message, bytes: &[u8]) -> Result<Message, QueryError> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected, so that the kernel hands on what ICMP says of a closed port.
    socket.connect(server).await?;
    let mut buffer = vec![0; 4096];
    loop {
        socket.send(bytes).await?;
        let Ok(received) = timeout(RETRY_INTERVAL, socket.recv(&mut buffer)).await else {
            continue;
        };
        let answer = Message::from_vec(buffer.get(..received?).unwrap_or_default());
        let answer = answer.map_err(malformed)?;
        if answer.metadata.id == asked.metadata.id && answer.queries == asked.queries {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, bytes: &[u8]) -> Result<Message, QueryError> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_u16(u16::try_from(bytes.len()).map_err(malformed)?).await?;
    stream.write_all(bytes).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Message::from_vec(&answer).map_err(malformed)
}

fn malformed(error: impl fmt::Display) -> QueryError {
    QueryError::Malformed(error.to_string())
}

fn read(answer: &Message, kind: RecordType) -> Reply {
    match answer.metadata.response_code {
        ResponseCode::NoError => Reply::Addresses(
            answer
                .answers
                .iter()
                .filter_map(|record| match (kind, &record.data) {
                    (RecordType::A, RData::A(v4)) => Some(IpAddr::V4(v4.0)),
                    (RecordType::AAAA, RData::AAAA(v6)) => Some(IpAddr::V6(v6.0)),
                    _ => None,
                })
                .collect(),
        ),
        ResponseCode::NXDomain => Reply::NoSuchName,
        ResponseCode::ServFail => Reply::Error("SERVFAIL"),
        ResponseCode::Refused => Reply::Error("REFUSED"),
        ResponseCode::FormErr => Reply::Error("FORMERR"),
        ResponseCode::NotImp => Reply::Error("NOTIMP"),
        _ => Reply::Error("a code that is none of DNS' usual ones"),
    }
}

/// What each server says to the first name of a lookup, in the file's order.
pub(super) async fn query_each(
    servers: &[SocketAddr],
    name: &str,
    limit: Duration,
) -> Vec<(SocketAddr, Result<Reply, QueryError>)> {
    let asked = servers
        .iter()
        .map(async |server| (*server, query(*server, name, RecordType::A, limit).await));
    futures::future::join_all(asked).await
}

/// How a lookup ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The full name that exists, and its addresses.
    Found { name: String, addresses: Vec<IpAddr> },
    /// No such name, under any of these. `outside` is one that is no name of the cluster and could
    /// not be answered, and why: a server for the cluster alone fails at all others.
    NotFound { asked: Vec<String>, outside: Option<(String, String)> },
    /// A server that answered before did not this time.
    Failed { name: String, why: String },
}

/// Looks a name up as resolvers do: the first of its candidates that has an address. Of a Service's
/// name (`is_service`) only those that lie in the cluster can be meant.
pub(super) async fn lookup(
    server: SocketAddr,
    conf: &ResolvConf,
    name: &str,
    is_service: bool,
    limit: Duration,
) -> Lookup {
    let asked = conf.candidates(name);
    let meant = |candidate: &str| is_service && candidate.contains(".svc.");
    let (mut failed, mut denied) = (None, false);
    // Asked for side by side, since a search list has a handful of domains; chosen in their order.
    let kinds = [RecordType::A, RecordType::AAAA];
    let all = asked.iter().map(async |candidate| {
        futures::future::join_all(kinds.map(|kind| query(server, candidate, kind, limit))).await
    });
    for (candidate, replies) in asked.iter().zip(futures::future::join_all(all).await) {
        let mut addresses = Vec::new();
        for reply in replies {
            let why = match reply {
                Ok(Reply::Addresses(more)) => {
                    addresses.extend(more);
                    continue;
                }
                Ok(Reply::NoSuchName) => {
                    denied |= meant(candidate);
                    continue;
                }
                Ok(Reply::Error(code)) => code.to_string(),
                Err(error) => error.to_string(),
            };
            // One that is meant counts more than one that is not.
            if failed.is_none() || meant(candidate) {
                failed = Some((candidate.clone(), why));
            }
        }
        if !addresses.is_empty() {
            return Lookup::Found { name: candidate.clone(), addresses };
        }
    }
    match failed {
        Some((name, why)) if !denied || meant(&name) => Lookup::Failed { name, why },
        outside => Lookup::NotFound { asked, outside },
    }
}
