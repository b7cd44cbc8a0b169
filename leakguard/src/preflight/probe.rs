//! One question to a resolver behind a tunnel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Header, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::resolvers::Nameserver;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(1);

/// More than a resolver sends over UDP.
const ANSWER_MAX: usize = 4096;

/// What became of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It was answered.
    Answered,
    /// It was answered with an error of the resolver.
    Refused(String),
    /// What is enforced now does not let it out.
    NotAllowed,
    /// It was not answered.
    Silent,
}

/// Asks for the root's name servers: that tells the resolver nothing, and every resolver knows them.
///
/// The socket is bound to the tunnel, so that the question cannot leave by another interface, whatever happens to the
/// routes meanwhile.
pub(super) async fn ask(server: Nameserver, tunnel: String) -> Asked {
    match timeout(LIMIT, exchange(&server, &tunnel)).await {
        Ok(Ok(ResponseCode::NoError | ResponseCode::NXDomain)) => Asked::Answered,
        Ok(Ok(code)) => Asked::Refused(code.to_str().to_owned()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Asked::NotAllowed,
        Ok(Err(error)) => {
            log::debug!("{server}: {error}");
            Asked::Silent
        }
        Err(_) => Asked::Silent,
    }
}

async fn exchange(server: &Nameserver, tunnel: &str) -> io::Result<ResponseCode> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::root(), RecordType::NS));
    let socket = towards(server.address, tunnel)?;
    let answer = answer(&socket, &question).await?;
    let Header { metadata, .. } =
        Header::read(&mut BinDecoder::new(&answer)).map_err(io::Error::other)?;
    Ok(metadata.response_code)
}

/// A socket that asks a resolver through a tunnel, and cannot by any other interface.
pub(crate) fn towards(server: IpAddr, tunnel: &str) -> io::Result<UdpSocket> {
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, BindToDevice, &tunnel.into())?;
    socket.connect((server, 53))?;
    UdpSocket::from_std(socket)
}

/// Asks one question and waits for its answer.
pub(crate) async fn answer(socket: &UdpSocket, question: &Message) -> io::Result<Vec<u8>> {
    socket
        .send(&question.to_vec().map_err(io::Error::other)?)
        .await?;
    let mut answer = vec![0; ANSWER_MAX];
    loop {
        let length = socket.recv(&mut answer).await?;
        let bytes = answer.get(..length).unwrap_or_default();
        if let Ok(Header { metadata, .. }) = Header::read(&mut BinDecoder::new(bytes))
            && metadata.message_type == MessageType::Response
            && metadata.id == question.metadata.id
        {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}
