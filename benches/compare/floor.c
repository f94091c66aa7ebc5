// The floor: what the kernel itself takes for W(N). The shortest sequence of requests that we know of, in raw netlink,
// with everything known before it starts: no parsing, no look before or after, no marks. Tricks found elsewhere belong
// in here too.
//
//   floor up|again|add|port|down N     in the caller's network and mount namespaces, names under /run/netns
//   floor whole|down N RULES
//
// up: all of it. again: read what stands, as a cold start must. add: one container more, in the last bridge. port: one
// published port changed. down: all of it and the one more, back to nothing.
// whole: all of it as netrec has it, with its rules, as transactions in a file, with marks like its own, and with a look
// at everything afterwards.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PER_BRIDGE = 1000, WAVE = 500, BATCH = 64, GROUP = 77, FIRST_PORT = 20000, READERS = 4, MAKERS = 2, ELEMENTS = 800 };

static void die(const char *what) {
  perror(what);
  exit(1);
}

// The last container may be one more than its bridge has otherwise.
static int networks;
// What netrec's rules are in, if those are loaded.
static const char *rules;
static int network_of(int i) { return i / PER_BRIDGE < networks ? i / PER_BRIDGE : networks - 1; }
static int host_of(int i) { return i - network_of(i) * PER_BRIDGE + 2; }
static unsigned ip4(int network, int host) { return htonl(0x0a000000u + ((unsigned)network << 16) + host); }
static void ip6(unsigned char *to, int network, int host) {
  memset(to, 0, 16);
  to[0] = 0xfd, to[6] = network >> 8, to[7] = network, to[14] = host >> 8, to[15] = host;
}
static void mac(unsigned char *to, int side, int i) {
  to[0] = 2, to[1] = side, to[2] = 0, to[3] = i >> 16, to[4] = i >> 8, to[5] = i;
}
static void path_of(char *to, size_t size, int i) { snprintf(to, size, "/run/netns/c%d", i); }

// ---- messages ----

// Of the first thread and of each reader; not thread-local themselves, which is cleared at the start of each thread. Who
// makes names writes no messages.
enum { OUT = 16 << 20, IN = 256 << 10 };
static char outs[1 + READERS][OUT], ins[1 + READERS][IN];
static __thread char *out = outs[0], *in = ins[0];
static __thread size_t filled, current;
static __thread unsigned count;

static void begin(int type, int flags, const void *header, size_t length) {
  struct nlmsghdr *message = (void *)(out + filled);
  memset(message, 0, NLMSG_SPACE(length));
  *message = (struct nlmsghdr){NLMSG_LENGTH(NLMSG_ALIGN(length)), type, NLM_F_REQUEST | flags, ++count, 0};
  memcpy(NLMSG_DATA(message), header, length);
  current = filled;
  filled += NLMSG_SPACE(length);
}
static void attribute(int type, const void *value, size_t length) {
  struct nlattr *attribute = (void *)(out + filled);
  memset(attribute, 0, 4 + NLA_ALIGN(length));
  attribute->nla_type = type, attribute->nla_len = 4 + length;
  if (length) memcpy((char *)attribute + 4, value, length);
  filled += 4 + NLA_ALIGN(length);
  ((struct nlmsghdr *)(out + current))->nlmsg_len = filled - current;
}
// As long as netrec's: the topology, what it is, and a digest.
static void mark(const char *name) {
  char alias[64];
  if (!rules) return;
  int length = snprintf(alias, sizeof alias, "netrec:w:host/veth/%s:e0:0123456789abcdef01", name);
  attribute(IFLA_IFALIAS, alias, length);
}
static void u8(int type, unsigned char value) { attribute(type, &value, 1); }
static void u32(int type, unsigned value) { attribute(type, &value, 4); }
static void be32(int type, unsigned value) { u32(type, htonl(value)); }
static void text(int type, const char *value) { attribute(type, value, strlen(value) + 1); }
static size_t nest(int type) {
  size_t at = filled;
  attribute(type, 0, 0);
  return at;
}
static void end(size_t at) { ((struct nlattr *)(out + at))->nla_len = filled - at; }

static int connect_to(int protocol) {
  int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), room = 8 << 20, on = 1;
  if (s < 0) die("socket");
  setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &room, 4);
  setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &room, 4);
  setsockopt(s, SOL_NETLINK, NETLINK_CAP_ACK, &on, 4);
  setsockopt(s, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, 4);
  return s;
}
static void say(int s) {
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  if (sendto(s, out, filled, 0, (void *)&kernel, sizeof kernel) < 0) die("send");
  filled = count = 0;
}
// Reads until the message of that number is acknowledged; any error ends the program.
static void acknowledged(int s, unsigned number) {
  for (;;) {
    int length = recv(s, in, IN, 0);
    if (length < 0) die("receive");
    for (struct nlmsghdr *it = (void *)in; NLMSG_OK(it, length); it = NLMSG_NEXT(it, length)) {
      if (it->nlmsg_type != NLMSG_ERROR) continue;
      if ((errno = -((struct nlmsgerr *)NLMSG_DATA(it))->error)) die("refused");
      if (it->nlmsg_seq == number) return;
    }
  }
}
static void flush(int s) {
  if (!filled) return;
  unsigned last = count;
  ((struct nlmsghdr *)(out + current))->nlmsg_flags |= NLM_F_ACK;
  say(s);
  acknowledged(s, last);
}

// ---- links, addresses, routes ----

static void no_link_local(void) {
  size_t spec = nest(IFLA_AF_SPEC), inet6 = nest(AF_INET6);
  u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
  end(inet6), end(spec);
}
static void set(int index, int flags) {
  struct ifinfomsg link = {.ifi_index = index, .ifi_flags = flags, .ifi_change = IFF_UP};
  begin(RTM_SETLINK, 0, &link, sizeof link);
}
static void set_up(int index) { set(index, IFF_UP); }
static void mark_named(const char *name) {
  struct ifinfomsg link = {0};
  if (!rules) return;
  begin(RTM_NEWLINK, 0, &link, sizeof link);
  text(IFLA_IFNAME, name), mark(name);
}
static void address4(int index, unsigned address) {
  struct ifaddrmsg to = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = index};
  unsigned broadcast = address | htonl(0xffff);
  begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &to, sizeof to);
  u32(IFA_LOCAL, address), u32(IFA_ADDRESS, address), u32(IFA_BROADCAST, broadcast);
}
static void address6(int index, int network, int host) {
  struct ifaddrmsg to = {.ifa_family = AF_INET6, .ifa_prefixlen = 64, .ifa_flags = IFA_F_NODAD, .ifa_index = index};
  unsigned char address[16];
  ip6(address, network, host);
  begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &to, sizeof to);
  attribute(IFA_LOCAL, address, 16), attribute(IFA_ADDRESS, address, 16);
}
static void default_route(int family, const void *gateway, size_t length, int index) {
  struct rtmsg to = {.rtm_family = family, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC,
                     .rtm_type = RTN_UNICAST};
  begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &to, sizeof to);
  attribute(RTA_GATEWAY, gateway, length), u32(RTA_OIF, index);
}
// With ports that forward a bridge arms the query timers of all of them anew for each that comes or goes, unless it is down
// or does not snoop: snooping goes off before the bridge goes up and on again behind it, all in one go.
static void snoop(int index, unsigned char on) {
  struct ifinfomsg link = {.ifi_index = index};
  begin(RTM_NEWLINK, 0, &link, sizeof link);
  size_t info = nest(IFLA_LINKINFO);
  text(IFLA_INFO_KIND, "bridge");
  size_t data = nest(IFLA_INFO_DATA);
  u8(IFLA_BR_MCAST_SNOOPING, on);
  end(data), end(info);
}
static void bridge_name(char *to, int network) { snprintf(to, IFNAMSIZ, "n%d", network); }
static int index_of_bridge(int network) {
  char name[IFNAMSIZ];
  bridge_name(name, network);
  return if_nametoindex(name);
}
static void add_bridge(int s, int network) {
  char name[IFNAMSIZ];
  unsigned char address[6];
  struct ifinfomsg link = {0};
  bridge_name(name, network);
  mac(address, 0xbb, network);
  begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
  text(IFLA_IFNAME, name), attribute(IFLA_ADDRESS, address, 6), u32(IFLA_GROUP, GROUP), u32(IFLA_MTU, 1500);
  size_t info = nest(IFLA_LINKINFO);
  text(IFLA_INFO_KIND, "bridge");
  end(info);
  flush(s);
  int index = index_of_bridge(network);
  link.ifi_index = index;
  begin(RTM_SETLINK, 0, &link, sizeof link);
  no_link_local(), mark(name);
  address4(index, ip4(network, 1));
  address6(index, network, 1);
  flush(s);
}
// One queue: several are made and then cut down to one, which waits for a grace period. The other end is born where it
// stays, with the name it keeps: moving and renaming wait as well.
static void add_veth(int i, int netns, int bridge) {
  char name[IFNAMSIZ];
  unsigned char outer[6], inner[6];
  struct ifinfomsg link = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, peer = {0};
  snprintf(name, sizeof name, "e%d", i);
  mac(outer, 0xaa, i), mac(inner, 0xcc, i);
  begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
  text(IFLA_IFNAME, name), attribute(IFLA_ADDRESS, outer, 6), u32(IFLA_MTU, 1500), u32(IFLA_GROUP, GROUP);
  u32(IFLA_NUM_TX_QUEUES, 1), u32(IFLA_NUM_RX_QUEUES, 1), u32(IFLA_MASTER, bridge);
  size_t info = nest(IFLA_LINKINFO);
  text(IFLA_INFO_KIND, "veth");
  size_t data = nest(IFLA_INFO_DATA), end_inside = nest(VETH_INFO_PEER);
  memcpy(out + filled, &peer, sizeof peer), filled += sizeof peer;
  text(IFLA_IFNAME, "eth0"), attribute(IFLA_ADDRESS, inner, 6), u32(IFLA_MTU, 1500), u32(IFLA_NET_NS_FD, netns);
  u32(IFLA_NUM_TX_QUEUES, 1), u32(IFLA_NUM_RX_QUEUES, 1);
  end(end_inside), end(data), end(info);
  mark_named(name);
}
static void inside(int s, int i) {
  struct ifinfomsg link = {.ifi_index = 2};
  unsigned gateway4 = ip4(network_of(i), 1);
  unsigned char gateway6[16];
  ip6(gateway6, network_of(i), 1);
  set_up(1), mark("lo");
  begin(RTM_SETLINK, 0, &link, sizeof link);
  no_link_local(), mark("eth0");
  set_up(2);
  address4(2, ip4(network_of(i), host_of(i)));
  address6(2, network_of(i), host_of(i));
  default_route(AF_INET, &gateway4, 4, 2);
  default_route(AF_INET6, gateway6, 16, 2);
  flush(s);
}
static void write_to(const char *path, const char *value) {
  int file = open(path, O_WRONLY | O_CLOEXEC);
  if (file < 0 || write(file, value, strlen(value)) < 0) die(path);
  close(file);
}

// What a bridge passes on asks for no IPv6 at its ports, each of which would have a multicast route in the host's namespace
// and report its groups, from the moment it has carrier on.
static void no_ipv6(int i) {
  char path[64];
  snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/e%d/disable_ipv6", i);
  write_to(path, "1");
}

// A thread that goes to another processor than its starter's, where Linux may put it while others are idle; one for each.
static void start(int at, pthread_t *thread, void *(*work)(void *), void *of) {
  cpu_set_t all, others;
  if (pthread_create(thread, 0, work, of)) die("thread");
  if (sched_getaffinity(0, sizeof all, &all) || at >= CPU_COUNT(&all) - 1) return;
  others = all;
  CPU_CLR(sched_getcpu(), &others);
  pthread_setaffinity_np(*thread, sizeof others, &others);
  pthread_setaffinity_np(*thread, sizeof all, &all);
}

struct container { int netns, socket; };

static struct container make_netns(int i) {
  char path[64];
  path_of(path, sizeof path, i);
  int file = open(path, O_CREAT | O_EXCL | O_RDONLY | O_CLOEXEC, 0444);
  if (file < 0) die(path);
  close(file);
  if (unshare(CLONE_NEWNET)) die("unshare");
  if (mount("/proc/thread-self/ns/net", path, "none", MS_BIND, 0)) die("mount");
  return (struct container){open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), connect_to(NETLINK_ROUTE)};
}
struct names { int next, from, to; struct container *made; };

static void *make_names(void *of) {
  struct names *names = of;
  for (int i; (i = __atomic_fetch_add(&names->next, 1, __ATOMIC_RELAXED)) < names->to;)
    names->made[i - names->from] = make_netns(i);
  return 0;
}
// Containers from one number up to another, in the bridges that stand, and what can be done beside the making of their
// namespaces, most of which the kernel does under no lock.
static void add_containers(int s, int from, int to, void (*beside)(int), int containers) {
  struct container *made = calloc(to - from, sizeof *made);
  struct names names = {from, from, to, made};
  pthread_t maker[MAKERS];
  int makers = to - from < MAKERS ? to - from : MAKERS, bridge = 0;
  for (int t = 0; t < makers; t++)
    start(t, &maker[t], make_names, &names);
  if (beside) beside(containers);
  for (int t = 0; t < makers; t++) pthread_join(maker[t], 0);
  for (int i = from; i < to; i++) {
    if (!bridge || i % PER_BRIDGE == 0) bridge = index_of_bridge(network_of(i));
    add_veth(i, made[i - from].netns, bridge);
    if (count >= BATCH - 1) flush(s);
  }
  flush(s);
  for (int i = from; i < to; i++) no_ipv6(i);
  for (int i = from; i < to; i++) {
    inside(made[i - from].socket, i);
    close(made[i - from].socket), close(made[i - from].netns);
  }
  free(made);
}

// ---- nftables ----

static size_t expression_at, data_at;
static int family = NFPROTO_IPV4;

static void nft(int type, int flags) {
  struct nfgenmsg to = {.nfgen_family = family};
  begin(NFNL_SUBSYS_NFTABLES << 8 | type, flags, &to, sizeof to);
}
static void nft_bracket(int type) {
  struct nfgenmsg to = {.res_id = htons(NFNL_SUBSYS_NFTABLES)};
  begin(type, 0, &to, sizeof to);
}
static void expression(const char *name) {
  expression_at = nest(NFTA_LIST_ELEM);
  text(NFTA_EXPR_NAME, name);
  data_at = nest(NFTA_EXPR_DATA);
}
static void end_expression(void) { end(data_at), end(expression_at); }
static void value(int type, const void *bytes, size_t length) {
  size_t at = nest(type);
  attribute(NFTA_DATA_VALUE, bytes, length);
  end(at);
}
static void load_meta(int key) {
  expression("meta"), be32(NFTA_META_DREG, NFT_REG_1), be32(NFTA_META_KEY, key), end_expression();
}
static void load_payload(int base, int offset, int length) {
  expression("payload"), be32(NFTA_PAYLOAD_DREG, NFT_REG_1), be32(NFTA_PAYLOAD_BASE, base);
  be32(NFTA_PAYLOAD_OFFSET, offset), be32(NFTA_PAYLOAD_LEN, length), end_expression();
}
static void compare(int how, const void *bytes, size_t length) {
  expression("cmp"), be32(NFTA_CMP_SREG, NFT_REG_1), be32(NFTA_CMP_OP, how);
  value(NFTA_CMP_DATA, bytes, length), end_expression();
}
static void drop(void) {
  expression("immediate"), be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
  size_t data = nest(NFTA_IMMEDIATE_DATA), verdict = nest(NFTA_DATA_VERDICT);
  be32(NFTA_VERDICT_CODE, NF_DROP);
  end(verdict), end(data), end_expression();
}
static void chain(const char *name, int hook, int priority, const char *type) {
  nft(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
  text(NFTA_CHAIN_TABLE, "w"), text(NFTA_CHAIN_NAME, name);
  size_t at = nest(NFTA_CHAIN_HOOK);
  be32(NFTA_HOOK_HOOKNUM, hook), be32(NFTA_HOOK_PRIORITY, priority);
  end(at);
  text(NFTA_CHAIN_TYPE, type);
}
static size_t rule(const char *chain) {
  nft(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
  text(NFTA_RULE_TABLE, "w"), text(NFTA_RULE_CHAIN, chain);
  return nest(NFTA_RULE_EXPRESSIONS);
}
static void element(int i, int port) {
  unsigned short outer = htons(port), inner = htons(80);
  unsigned address = ip4(network_of(i), host_of(i));
  unsigned char target[8] = {0};
  memcpy(target, &address, 4), memcpy(target + 4, &inner, 2);
  size_t at = nest(NFTA_LIST_ELEM);
  value(NFTA_SET_ELEM_KEY, &outer, 2), value(NFTA_SET_ELEM_DATA, target, 8);
  end(at);
}
static void elements(int how, int from, int to, int first_port) {
  for (int i = from; i < to;) {
    nft(how, how == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0);
    text(NFTA_SET_ELEM_LIST_TABLE, "w"), text(NFTA_SET_ELEM_LIST_SET, "publish");
    size_t list = nest(NFTA_SET_ELEM_LIST_ELEMENTS);
    for (int n = 0; n < ELEMENTS && i < to; n++, i++) element(i, first_port + i);
    end(list);
  }
}
static void commit(void) {
  int s = connect_to(NETLINK_NETFILTER);
  unsigned last = count;
  ((struct nlmsghdr *)(out + current))->nlmsg_flags |= NLM_F_ACK;
  nft_bracket(NFNL_MSG_BATCH_END);
  say(s);
  acknowledged(s, last);
  close(s);
}
// Each transaction of the file, whose messages are numbered from 1 on.
static void load_rules(void) {
  int file = open(rules, O_RDONLY | O_CLOEXEC), s = connect_to(NETLINK_NETFILTER), length = read(file, outs[1], OUT);
  if (file < 0 || length <= 0 || length == OUT) die(rules);
  for (struct nlmsghdr *it = (void *)outs[1]; NLMSG_OK(it, length); it = NLMSG_NEXT(it, length)) {
    memcpy(out + filled, it, it->nlmsg_len), filled += NLMSG_ALIGN(it->nlmsg_len);
    if (it->nlmsg_type == NFNL_MSG_BATCH_END) say(s), acknowledged(s, it->nlmsg_seq - 1);
  }
  close(file), close(s);
}
// Listener reports from nobody's address are for the bridge itself; without this each goes to all containers.
static void hush(void) {
  unsigned char icmpv6 = IPPROTO_ICMPV6, report = 143, nobody[16] = {0};
  int group = GROUP;
  family = NFPROTO_BRIDGE;
  nft(NFT_MSG_NEWTABLE, NLM_F_CREATE), text(NFTA_TABLE_NAME, "w");
  chain("forward", NF_INET_FORWARD, -200, "filter");  // of the same number as NF_BR_FORWARD
  size_t list = rule("forward");  // icmpv6 type mld2-listener-report ip6 saddr :: oifgroup 77 drop
  load_meta(NFT_META_L4PROTO), compare(NFT_CMP_EQ, &icmpv6, 1);
  load_payload(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1), compare(NFT_CMP_EQ, &report, 1);
  load_payload(NFT_PAYLOAD_NETWORK_HEADER, 8, 16), compare(NFT_CMP_EQ, nobody, sizeof nobody);
  load_meta(NFT_META_OIFGROUP), compare(NFT_CMP_EQ, &group, sizeof group), drop();
  end(list);
  family = NFPROTO_IPV4;
}
static void add_firewall(int containers) {
  unsigned char tcp = IPPROTO_TCP, ten = 10;
  char bridges[] = {'n'};
  nft_bracket(NFNL_MSG_BATCH_BEGIN);
  nft(NFT_MSG_NEWTABLE, NLM_F_CREATE), text(NFTA_TABLE_NAME, "w");
  nft(NFT_MSG_NEWSET, NLM_F_CREATE);
  text(NFTA_SET_TABLE, "w"), text(NFTA_SET_NAME, "publish"), be32(NFTA_SET_FLAGS, NFT_SET_MAP), be32(NFTA_SET_ID, 1);
  be32(NFTA_SET_KEY_TYPE, 13), be32(NFTA_SET_KEY_LEN, 2);
  be32(NFTA_SET_DATA_TYPE, 7 << 6 | 13), be32(NFTA_SET_DATA_LEN, 8);
  chain("pre", NF_INET_PRE_ROUTING, -100, "nat"), chain("post", NF_INET_POST_ROUTING, 100, "nat");
  size_t list = rule("pre");  // dnat ip to tcp dport map @publish
  load_meta(NFT_META_L4PROTO), compare(NFT_CMP_EQ, &tcp, 1), load_payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2);
  expression("lookup"), text(NFTA_LOOKUP_SET, "publish"), be32(NFTA_LOOKUP_SET_ID, 1);
  be32(NFTA_LOOKUP_SREG, NFT_REG_1), be32(NFTA_LOOKUP_DREG, NFT_REG_1), end_expression();
  expression("nat"), be32(NFTA_NAT_TYPE, NFT_NAT_DNAT), be32(NFTA_NAT_FAMILY, NFPROTO_IPV4);
  be32(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1), be32(NFTA_NAT_REG_PROTO_MIN, NFT_REG32_01), end_expression();
  end(list);
  list = rule("post");  // ip saddr 10.0.0.0/8 oifname != "n*" masquerade
  load_payload(NFT_PAYLOAD_NETWORK_HEADER, 12, 1), compare(NFT_CMP_EQ, &ten, 1);
  load_meta(NFT_META_OIFNAME), compare(NFT_CMP_NEQ, bridges, sizeof bridges);
  expression("masq"), end_expression();
  end(list);
  elements(NFT_MSG_NEWSETELEM, 0, containers, FIRST_PORT);
  hush();
  commit();
}
static void add_whole_firewall(int containers) {
  (void)containers;
  load_rules();
  // Its links have other names than those in the rules.
  nft_bracket(NFNL_MSG_BATCH_BEGIN);
  hush();
  commit();
}

// ---- what stands ----

static void dump(int s, int type, const void *header, size_t length, int filter, unsigned by) {
  begin(type, NLM_F_DUMP, header, length);
  if (filter) u32(filter, by);
  say(s);
  for (;;) {
    int length = recv(s, in, IN, 0);
    if (length < 0) die("receive");
    for (struct nlmsghdr *it = (void *)in; NLMSG_OK(it, length); it = NLMSG_NEXT(it, length)) {
      if (it->nlmsg_type == NLMSG_DONE) return;
      if (it->nlmsg_type != NLMSG_ERROR) continue;
      errno = -((struct nlmsgerr *)NLMSG_DATA(it))->error;
      die("dump");
    }
  }
}
static void read_netns(int s) {
  struct ifinfomsg link = {0};
  struct ifaddrmsg address = {0};
  struct rtmsg route = {.rtm_table = RT_TABLE_MAIN};
  dump(s, RTM_GETLINK, &link, sizeof link, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
  dump(s, RTM_GETADDR, &address, sizeof address, 0, 0);
  route.rtm_family = AF_INET;
  dump(s, RTM_GETROUTE, &route, sizeof route, RTA_TABLE, RT_TABLE_MAIN);
  route.rtm_family = AF_INET6;
  dump(s, RTM_GETROUTE, &route, sizeof route, RTA_TABLE, RT_TABLE_MAIN);
}
struct part { pthread_t thread; int at, from, to; };
static void *read_part(void *of) {
  struct part *part = of;
  out = outs[part->at], in = ins[part->at];
  for (int i = part->from; i < part->to; i++) {
    char path[64];
    path_of(path, sizeof path, i);
    int netns = open(path, O_RDONLY | O_CLOEXEC);
    if (netns < 0 || setns(netns, CLONE_NEWNET)) die(path);
    int s = connect_to(NETLINK_ROUTE);
    read_netns(s);
    close(s), close(netns);
  }
  return 0;
}
static void again(int containers) {
  int s = connect_to(NETLINK_ROUTE), threads = containers < 16 ? 1 : sysconf(_SC_NPROCESSORS_ONLN);
  struct part parts[READERS];
  if (threads > READERS) threads = READERS;
  read_netns(s);
  for (int t = 0; t < threads; t++) {
    parts[t].at = 1 + t, parts[t].from = containers * t / threads, parts[t].to = containers * (t + 1) / threads;
    start(t, &parts[t].thread, read_part, &parts[t]);
  }
  for (int t = 0; t < threads; t++) pthread_join(parts[t].thread, 0);
  s = connect_to(NETLINK_NETFILTER);
  struct nfgenmsg to = {.nfgen_family = rules ? NFPROTO_INET : NFPROTO_IPV4};
  begin(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM, NLM_F_DUMP, &to, sizeof to);
  text(NFTA_SET_ELEM_LIST_TABLE, rules ? "netrec-w" : "w");
  text(NFTA_SET_ELEM_LIST_SET, rules ? "publish4" : "publish");
  say(s);
  for (int done = 0; !done;) {
    int length = recv(s, in, IN, 0);
    if (length < 0) die("receive");
    for (struct nlmsghdr *it = (void *)in; NLMSG_OK(it, length); it = NLMSG_NEXT(it, length)) {
      if (it->nlmsg_type == NLMSG_ERROR) errno = -((struct nlmsgerr *)NLMSG_DATA(it))->error, die("elements");
      done |= it->nlmsg_type == NLMSG_DONE;
    }
  }
}

// ---- what is asked for ----

// What waits for no namespace, by this socket: what is done beside is given the number of containers and nothing else.
static int host;
static void add_host(int containers) {
  for (int network = 0; network < networks; network++) add_bridge(host, network);
  (rules ? add_whole_firewall : add_firewall)(containers);
}
static void up(int containers) {
  int s = host = connect_to(NETLINK_ROUTE);
  // First, as long as there are no links to walk over.
  write_to("/proc/sys/net/ipv4/ip_forward", "1"), write_to("/proc/sys/net/ipv6/conf/all/forwarding", "1");
  // In waves: what the kernel made for one is still in caches when it is furnished.
  void (*beside)(int) = add_host;
  for (int from = 0; from < containers; from += WAVE, beside = 0)
    add_containers(s, from, from + WAVE < containers ? from + WAVE : containers, beside, containers);
  // Last: what containers announce while they are made would go to every port.
  for (int network = 0; network < networks; network++) {
    int index = index_of_bridge(network);
    snoop(index, 0), set_up(index), snoop(index, 1);
  }
  flush(s);
}
// Whoever makes a mapping or takes it away has to forget flows that go another way, which no request finds by their port:
// all are read, from one hash table of the machine. Here there are none to be forgotten.
static void read_flows(void) {
  struct nfgenmsg any = {0};
  int s = connect_to(NETLINK_NETFILTER);
  begin(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, NLM_F_DUMP, &any, sizeof any);
  say(s);
  for (;;) {
    int length = recv(s, in, IN, 0);
    if (length < 0) die("flows");
    for (struct nlmsghdr *it = (void *)in; NLMSG_OK(it, length); it = NLMSG_NEXT(it, length)) {
      if (it->nlmsg_type == NLMSG_DONE || it->nlmsg_type == NLMSG_ERROR) {
        close(s);
        return;
      }
    }
  }
}
static void publish_one(int i) {
  nft_bracket(NFNL_MSG_BATCH_BEGIN);
  elements(NFT_MSG_NEWSETELEM, i, i + 1, FIRST_PORT);
  commit();
}
static void add(int containers) {
  add_containers(connect_to(NETLINK_ROUTE), containers, containers + 1, publish_one, containers);
  read_flows();
}
static void port(void) {
  nft_bracket(NFNL_MSG_BATCH_BEGIN);
  elements(NFT_MSG_DELSETELEM, 0, 1, FIRST_PORT);
  elements(NFT_MSG_NEWSETELEM, 0, 1, FIRST_PORT - 1);
  commit();
  read_flows();
}
// By group, in one request: each request waits for a grace period. Bridges go down before, which keeps them from arming
// timers for each port that goes. Namespaces are held until the last name is gone: the kernel would clean the first ones up
// meanwhile, and each unmounting waits until all processors have passed a quiet point.
static void down(int containers) {
  struct ifinfomsg all = {0};
  int s = connect_to(NETLINK_ROUTE);
  nft_bracket(NFNL_MSG_BATCH_BEGIN);
  for (int i = rules ? 1 : 0; i < 2; i++) {
    family = i ? NFPROTO_BRIDGE : NFPROTO_IPV4;
    nft(NFT_MSG_DELTABLE, 0), text(NFTA_TABLE_NAME, "w");
  }
  commit();
  for (int network = 0; network < networks; network++)
    set(index_of_bridge(network), 0);
  flush(s);
  begin(RTM_DELLINK, 0, &all, sizeof all);
  u32(IFLA_GROUP, GROUP);
  flush(s);
  for (int i = 0; i <= containers; i++) {
    char path[64];
    path_of(path, sizeof path, i);
    open(path, O_RDONLY | O_CLOEXEC);
    umount2(path, MNT_DETACH), unlink(path);
  }
}

int main(int arguments, char **argument) {
  struct rlimit files;
  int containers = arguments > 2 ? atoi(argument[2]) : 0;
  rules = arguments > 3 ? argument[3] : 0;
  if (containers < 1) return 2;
  networks = (containers + PER_BRIDGE - 1) / PER_BRIDGE;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  // Room for descriptors before there is a second thread: grown later, each growth waits until all processors have passed a quiet
  // point.
  close(fcntl(0, F_DUPFD, 2 * WAVE + 23));
  if (!strcmp(argument[1], "up")) up(containers);
  else if (!strcmp(argument[1], "whole") && rules) up(containers), again(containers);
  else if (!strcmp(argument[1], "again")) again(containers);
  else if (!strcmp(argument[1], "add")) add(containers);
  else if (!strcmp(argument[1], "port")) port();
  else if (!strcmp(argument[1], "down")) down(containers);
  else return 2;
  return 0;
}
