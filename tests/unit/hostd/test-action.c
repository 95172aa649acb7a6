/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Action files: what a good one says, and at which line a bad one is told. */

#include <glib.h>

#include "base/base.h"
#include "base/ini.h"
#include "hostd/action.h"
#include "../suite.h"

typedef struct Told {
        unsigned n, first_line;
        char *first;
} Told;

static void on_complaint(void *userdata, const char *file, unsigned line, const char *why)
{
        Told *t = userdata;

        ck_assert_str_eq(file, "/x/web.action");
        if (t->n++ == 0) {
                t->first_line = line;
                t->first = g_strdup(why);
        }
}

static Action *parse(const char *text, Told *told)
{
        Action *a = NULL;
        int r = action_parse("/x/web.action", text, strlen(text), on_complaint, told, &a);

        ck_assert(r == 0 || r == -EINVAL);
        ck_assert((r == 0) == (told->n == 0));
        return a;
}

START_TEST(test_good)
{
        static const char text[] = "[Action]\n"
                                   "Description=Give them all\n"
                                   "Guests=web-*;edge-? # two kinds\n"
                                   "On=ready\n"
                                   "Once=guest\n"
                                   "Timeout=2min\n"
                                   "Retries=3\n"
                                   "\n"
                                   "[Step site config]\n"
                                   "Push=/srv/a:b.conf:/etc/site.conf\n"
                                   "Mode=0640\n"
                                   "Owner=www:www\n"
                                   "[Step reload]\n"
                                   "Run=/bin/sh -c 'a \"b\"'\n"
                                   "Environment=A=1 B='2 3'\n"
                                   "Timeout=5\n"
                                   "[Step tell]\n"
                                   "Call=news two words\n";
        Told told = {};
        Action *a = parse(text, &told);

        ck_assert_ptr_nonnull(a);
        ck_assert_str_eq(a->name, "web");
        ck_assert_str_eq(a->description, "Give them all");
        ck_assert_int_eq(a->on, ACTION_ON_READY);
        ck_assert_int_eq(a->once, ACTION_ONCE_GUEST);
        ck_assert_uint_eq(a->timeout_usec, 120 * USEC_PER_SEC);
        ck_assert_uint_eq(a->n_retries, 3);
        ck_assert_uint_eq(a->n_steps, 3);
        ck_assert_str_eq(a->steps[0].from, "/srv/a:b.conf");
        ck_assert_str_eq(a->steps[0].to, "/etc/site.conf");
        ck_assert_uint_eq(a->steps[0].mode, 0640);
        ck_assert_str_eq(a->steps[0].owner, "www:www");
        ck_assert_str_eq(a->steps[1].argv[2], "a \"b\"");
        ck_assert_str_eq(a->steps[1].env[1], "B=2 3");
        ck_assert_uint_eq(a->steps[1].timeout_usec, 5 * USEC_PER_SEC);
        ck_assert_int_eq(a->steps[2].verb, STEP_CALL);
        ck_assert_str_eq(a->steps[2].topic, "news");
        ck_assert_str_eq(a->steps[2].text, "two words");
        ck_assert(action_is_for(a, "web-1", "11111111-2222-3333-4444-555555555555"));
        ck_assert(action_is_for(a, "edge-x", ""));
        ck_assert(!action_is_for(a, "edge-xy", ""));
        (void)action_free(a);
}
END_TEST

START_TEST(test_by_uuid)
{
        Told told = {};
        Action *a = parse("[Action]\nGuests=uuid:ABCDEF00-2222-3333-4444-555555555555\nOn=message:go.now\n["
                          "Step s]\nSend=t\n",
                          &told);

        ck_assert_ptr_nonnull(a);
        ck_assert_int_eq(a->on, ACTION_ON_MESSAGE);
        ck_assert_str_eq(a->topic, "go.now");
        ck_assert_str_eq(a->steps[0].text, "");
        ck_assert(action_is_for(a, "x", "abcdef00-2222-3333-4444-555555555555"));
        ck_assert(!action_is_for(a, "x", "abcdef00-2222-3333-4444-555555555556"));
        (void)action_free(a);
}
END_TEST

/* As the design has it, and a remark behind everything. */
START_TEST(test_remarks)
{
        static const char text[] = "[Action]\n"
                                   "Description=Give every web server its site configuration # 2\n"
                                   "Guests=web-*;edge-?          # globs on the name, or uuid:…\n"
                                   "On=ready                     # ready, started, stopped, message:TOPIC\n"
                                   "Once=boot                    # boot (default), guest, always\n"
                                   "Timeout=60s\t# a minute\n"
                                   "Retries=3 #three\n"
                                   "\n"
                                   "[Step site config]\n"
                                   "Push=/srv/site.conf:/etc/site.conf  # here: there\n"
                                   "Mode=0644 # all may read\n"
                                   "Owner=www # it\n"
                                   "Preserve=no # not more\n"
                                   "Overwrite=update # when newer\n"
                                   "[Step hash]\n"
                                   "Push=/srv/a #1:/etc/a #1\n"
                                   "[Step reload]\n"
                                   "Run=/bin/systemctl reload 'a # b' \"c # d\" e#f \\# g\t# nginx\n"
                                   "User=www # it\n"
                                   "WorkingDirectory=/srv # it\n"
                                   "Environment=A=1 B='2 # 3' # two\n"
                                   "Timeout=5 # seconds\n"
                                   "[Step tell]\n"
                                   "Send=irc join #news now # a channel\n";
        Told told = {};
        Action *a = parse(text, &told);
        const ActionStep *s;

        ck_assert_msg(a != NULL, "%u: %s", told.first_line, told.first);
        ck_assert_str_eq(a->description, "Give every web server its site configuration");
        ck_assert(action_is_for(a, "web-1", "") && action_is_for(a, "edge-1", "") && !a->guests[2]);
        ck_assert_int_eq(a->on, ACTION_ON_READY);
        ck_assert_int_eq(a->once, ACTION_ONCE_BOOT);
        ck_assert_uint_eq(a->timeout_usec, 60 * USEC_PER_SEC);
        ck_assert_uint_eq(a->n_retries, 3);
        ck_assert_uint_eq(a->n_steps, 4);
        s = a->steps;
        ck_assert_str_eq(s->from, "/srv/site.conf");
        ck_assert_str_eq(s->to, "/etc/site.conf");
        ck_assert_uint_eq(s->mode, 0644);
        ck_assert_str_eq(s->owner, "www");
        ck_assert_str_eq(s->overwrite, "update");
        ck_assert_str_eq(s[1].from, "/srv/a #1");
        ck_assert_str_eq(s[1].to, "/etc/a #1");
        ck_assert_str_eq(s[2].argv[2], "a # b");
        ck_assert_str_eq(s[2].argv[3], "c # d");
        ck_assert_str_eq(s[2].argv[4], "e#f");
        ck_assert_str_eq(s[2].argv[5], "#");
        ck_assert_str_eq(s[2].argv[6], "g");
        ck_assert_ptr_null(s[2].argv[7]);
        ck_assert_str_eq(s[2].user, "www");
        ck_assert_str_eq(s[2].cwd, "/srv");
        ck_assert_str_eq(s[2].env[1], "B=2 # 3");
        ck_assert_ptr_null(s[2].env[2]);
        ck_assert_uint_eq(s[2].timeout_usec, 5 * USEC_PER_SEC);
        ck_assert_str_eq(s[3].text, "join #news now");
        (void)action_free(a);
}
END_TEST

static const struct {
        const char *text;
        unsigned line;
        const char *says;
} bad[] = {
        { "[Action]\nGuests=a\n[Step x]\nPuhs=/a:/b\n", 4, "Puhs" },
        { "[Action]\nGeusts=a\n[Step x]\nRun=/a\n", 2, "Geusts" },
        { "[Action]\nGuests=a\nOn=boot\n[Step x]\nRun=/a\n", 3, "On=boot" },
        { "[Action]\nGuests=a\nOn=message:a b\n[Step x]\nRun=/a\n", 3, "message" },
        { "[Action]\nGuests=a\nOnce=twice\n[Step x]\nRun=/a\n", 3, "Once=twice" },
        { "[Action]\nGuests=a\nTimeout=soon\n[Step x]\nRun=/a\n", 3, "Timeout=soon" },
        { "[Action]\nGuests=a\nRetries=101\n[Step x]\nRun=/a\n", 3, "Retries=101" },
        { "[Action]\nGuests=uuid:12\n[Step x]\nRun=/a\n", 2, "UUID" },
        { "[Action]\nGuests=a\n[Step x]\nPush=/a\n", 4, "Push" },
        { "[Action]\nGuests=a\n[Step x]\nPush=/a/../b:/c\n", 4, ".." },
        { "[Action]\nGuests=a\n[Step x]\nRun='/a\n", 4, "Run" },
        { "[Action]\nGuests=a\n[Step x]\nRun=/a\nSend=t\n", 5, "verb" },
        { "[Action]\nGuests=a\n[Step x]\nRun=/a\nMode=999\n", 5, "Mode" },
        { "[Action]\nGuests=a\n[Step x]\nMode=0644\n", 3, "verb" },
        { "[Action]\nGuests=a\n[Step x]\nMode=0644\nRun=/a\n", 4, "Mode= has no meaning" },
        { "[Action]\nGuests=a\n[Step x]\nCall=t\nOwner=a\n", 5, "Push and Pull, and the step is a Call" },
        { "[Action]\nGuests=a\n[Step x]\nSend=t\nTimeout=5\nPreserve=no\n", 6, "Preserve=" },
        { "[Action]\nGuests=a\n[Step x]\nRun=/a\nUser=a\nOverwrite=fail\n", 6, "Overwrite=" },
        { "[Action]\nGuests=a\n[Step x]\nPush=/a:/b\nMode=0644\nUser=a\n", 6, "the step is a Push" },
        { "[Action]\nGuests=a\n[Step x]\nPull=/a:/b\nWorkingDirectory=/a\n", 5, "WorkingDirectory=" },
        { "[Action]\nGuests=a\n[Step x]\nSend=t\nEnvironment=A=1\n", 5, "Environment=" },
        { "[Action]\nGuests=a\n[Step x]\n\n[Step y]\nRun=/a\n", 3, "[Step x] has no verb" },
        { "[Action]\nGuests=a\nOn=stopped\n[Step x]\nTimeout=3\nCall=t\n", 6, "stopped" },
        { "[Action]\nGuests=a\n[Stpe x]\nRun=/a\n[Step y]\nRun=/a\n", 3, "[Stpe x]" },
        { "# only\n[Action]\nOn=ready\n[Step x]\nRun=/a\n", 2, "Guests=" },
        { "# only\n[Action]\nGuests=a\n", 2, "[Step NAME]" },
        { "[Action]\nGuests=a\n[Step x]\nRun=/a\nMode= # none\n", 5, "Mode" },
        { "Guests=a\n[Step x]\nRun=/a\n", 1, "outside" },
};

START_TEST(test_bad)
{
        Told told = {};

        ck_assert_ptr_null(parse(bad[_i].text, &told));
        ck_assert_msg(told.first_line == bad[_i].line, "%s: told at line %u", bad[_i].text, told.first_line);
        ck_assert_msg(strstr(told.first, bad[_i].says) != NULL, "%s: \"%s\"", bad[_i].text, told.first);
        g_free(told.first);
}
END_TEST

START_TEST(test_nothing_in_it)
{
        Told told = {};

        ck_assert_ptr_null(parse("[Action]\nGuests=a\n", &told));
        g_free(told.first);
        told = (Told){};
        ck_assert_ptr_null(parse("[Step x]\nRun=/a\n", &told));
        g_free(told.first);
}
END_TEST

START_TEST(test_all_errors_are_told)
{
        Told told = {};

        ck_assert_ptr_null(parse("[Action]\nGuests=a\nA=1\nB=2\n[Step x]\nC=3\nRun=/a\n", &told));
        ck_assert_uint_eq(told.n, 3);
        g_free(told.first);
}
END_TEST

static void on_unreadable(void *userdata, const char *dir, int r)
{
        unsigned *n = userdata;

        (*n)++;
        ck_assert_int_eq(r, -ELOOP);
        ck_assert(g_str_has_suffix(dir, "/loop"));
}

/* The others are read all the same, and later ones override earlier ones. */
START_TEST(test_an_unreadable_directory)
{
        g_autofree char *top = g_dir_make_tmp("vmferry-actions-XXXXXX", NULL);
        g_autofree char *script = g_strdup_printf("cd %s && mkdir one two && echo 1 >one/a.action && "
                                                  "echo 2 >two/a.action && echo 1 >one/b.action && "
                                                  "ln -s loop loop",
                                                  top);
        g_autofree char *clean = g_strdup_printf("rm -rf %s", top);
        char *dirs[] = { g_build_filename(top, "one", NULL), g_build_filename(top, "loop", NULL),
                         g_build_filename(top, "none", NULL), g_build_filename(top, "two", NULL), NULL };
        char **files = NULL;
        unsigned n = 0;

        ck_assert_int_eq(system(script), 0);
        ck_assert_int_eq(action_list_files(dirs, on_unreadable, &n, &files), 0);
        ck_assert_uint_eq(n, 1);
        ck_assert(g_str_has_suffix(files[0], "/two/a.action"));
        ck_assert(g_str_has_suffix(files[1], "/one/b.action"));
        ck_assert_ptr_null(files[2]);
        (void)ini_files_free(files);
        for (char **d = dirs; *d; d++)
                g_free(*d);
        ck_assert_int_eq(system(clean), 0);
}
END_TEST

SUITE("action",
      { test_good },
      { test_by_uuid },
      { test_remarks },
      { test_bad, ELEMENTSOF(bad) },
      { test_an_unreadable_directory },
      { test_nothing_in_it },
      { test_all_errors_are_told })
